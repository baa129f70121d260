/**
 * One cell of the matrix: the owner stands at a step, the fault strikes, the owner goes on; then everything is
 * healed, and what was promised is checked.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Step } from '../../driver/runtime.ts'
import { settled, until } from '../cluster.ts'
import { ask } from '../servers.ts'
import { RESOLVER, type Fault, type Scene } from './faults.ts'
import { describeServers, type Owner, type World } from './world.ts'

export interface Cell {
  step: Step
  fault: string
  failures: string[]
  /** What the owner was told; undefined when it died first. */
  answer?: string
  /** Longest time without an acknowledged write, in conflict with the owner's and not. */
  pauses?: [number, number]
  /** The longest that something of the owner's was prepared on a reachable server. */
  doubt_ms: number
  /** From healing until nothing of the owner's is prepared anywhere. */
  drain_ms?: number
  unknowns: number
  reached: boolean
}
/** Falsifies something on purpose: the controls. */
export interface Tamper {
  whenStruck?(scene: Scene, owner: string): Promise<void>
  beforeChecks?(scene: Scene, id: string): Promise<void>
}

const DOUBT_LIMIT_MS = 5000
let serial = 0

export async function cell(
  w: World,
  owner: Owner,
  step: Step,
  fault: Fault,
  tamper: Tamper = {},
): Promise<Cell & { destroyed: boolean }> {
  const id = `${step}-${fault.name}-${++serial}`
  const result: Cell & { destroyed: boolean } = {
    step,
    fault: fault.name,
    failures: [],
    doubt_ms: 0,
    unknowns: 0,
    reached: false,
    destroyed: false,
  }
  const fail = (why: string): void => void result.failures.push(why)
  const { bystander, proxies, servers } = w
  const before = bystander.writers.map((b) => b.committed)

  owner.forget()
  owner.say({ id, step, urls: proxies.map((p) => p.url) })
  const ready = await owner.hear('ready', 10_000)
  if (!ready) return (fail('the owner did not become ready'), result)
  const lead = proxies.findIndex((p) => ready.lead.includes(`:${p.port}/`))
  const scene: Scene = {
    servers,
    proxies,
    ownerPid: owner.process.pid!,
    step,
    lead,
    follower: (lead + 1) % 3,
    other: (lead + 2) % 3,
  }
  if (RESOLVER.includes(step)) {
    proxies[scene.lead]!.add({ direction: 'to-server', match: /^COMMIT$/, nth: 1, action: 'reset' })
    // Not a silent loss, whose half-open session would keep its guards: with the fault that would be two members of
    // three.
    proxies[scene.other]!.add({ direction: 'to-server', match: /PREPARE TRANSACTION/, nth: 1, action: 'reset' })
  }
  bystander.start()
  await sleep(60)
  owner.say('go')
  result.reached = (await owner.hear('reached', 15_000)) !== undefined
  if (!result.reached) {
    fail(`the step was not reached: ${JSON.stringify(owner.said)}`)
    await bystander.stop()
    w.balances = w.balances.map((b, i) => b + bystander.writers[i]!.committed - before[i]!) as [number, number]
    if (JSON.stringify(owner.said).includes('acknowledged')) w.balances[0]++
    await finishOwner(owner)
    return result
  }

  // The fault, and how long what it left in doubt stays so. A server that nobody can reach is looked at when it is
  // back.
  const struckAt = performance.now()
  const strike = await fault.strike(scene)
  await tamper.whenStruck?.(scene, ready.owner)
  const away = new Set(strike.down === undefined ? [] : [strike.down])
  let watching = true
  const watch = (async () => {
    while (watching) {
      for (const ms of await w.doubts.look(ready.owner, away)) result.doubt_ms = Math.max(result.doubt_ms, ms ?? 0)
      await sleep(50)
    }
  })()
  owner.say('on')
  await sleep(strike.hold_ms ?? 100)
  if (strike.owner === 'frozen') {
    // Whatever it holds, and however long it stands: others do not need it.
    await until('both writers go on while the owner stands still', 10_000, async () =>
      bystander.movedOn(struckAt),
    ).catch((e: Error) => fail(e.message))
    await strike.heal?.()
  }
  const answer = strike.owner === 'killed' ? undefined : await owner.hear('answer', 25_000)
  if (strike.owner === 'killed') {
    await until('the owner is gone', 2000, async () => owner.exit !== undefined)
    if (owner.exit !== 'SIGKILL') fail(`not struck: the owner ended with ${owner.exit}`)
  } else if (!answer)
    fail(owner.exit === undefined ? 'the owner got no answer within 25 s' : `the owner died: ${owner.exit}`)
  await until('both writers go on', 20_000, async () => bystander.movedOn(struckAt)).catch((e: Error) =>
    fail(`${e.message}: ${bystander.writers.map((b) => b.errors.slice(-2).join('; ')).join(' / ')}`),
  )

  const struck = strike.struck() // while it still lasts
  if (strike.owner !== 'frozen') await strike.heal?.()
  for (const p of proxies) p.heal()
  const healed = performance.now()
  watching = false
  await watch
  const gone = new Set(strike.destroyed === undefined ? [] : [strike.destroyed])
  const drained = async (): Promise<boolean> =>
    (await w.doubts.look(ready.owner, gone)).every((ms, i) => gone.has(i) || ms === 0)
  result.drain_ms = Math.round(
    await until('drained', DOUBT_LIMIT_MS, drained).catch(async () => {
      fail(`still prepared ${DOUBT_LIMIT_MS} ms after everything was healed: ${await describeServers(servers)}`)
      return performance.now() - healed
    }),
  )
  if (result.doubt_ms > DOUBT_LIMIT_MS) fail(`prepared for ${result.doubt_ms} ms on a reachable server`)
  if (!struck) fail('not struck')

  await bystander.stop()
  result.pauses = bystander.pauses(struckAt, performance.now())
  result.unknowns = bystander.writers.reduce((n, b) => n + b.unknown, 0)
  const alive = servers.filter((_, i) => !gone.has(i))
  await tamper.beforeChecks?.(scene, id)
  await settled(alive, 10_000).catch(async () => fail(`the servers differ: ${await describeServers(alive)}`))

  // What the owner was told, against what each server holds.
  const held = await Promise.all(
    alive.map(async (s) => (await ask(s, 'SELECT FROM entries WHERE id = $1', [id])).length),
  )
  result.answer =
    answer === undefined
      ? 'dead'
      : answer === 'acknowledged'
        ? 'yes'
        : answer.outcome === 'unknown'
          ? 'unknown'
          : `no (${answer.code})`
  if (answer === 'acknowledged' && held.includes(0))
    fail(`acknowledged, but not there: on ${held.join()} of the servers`)
  if (typeof answer === 'object' && answer.outcome !== 'unknown' && held.includes(1))
    fail(`a definite error, but there: ${answer.code} ${answer.message}`)
  if (new Set(held).size > 1) fail(`not the same everywhere: ${held.join()}`)
  const expected = w.balances.map(
    (b, i) => b + bystander.writers[i]!.committed - before[i]! + (i === 0 ? held[0]! : 0),
  ) as [number, number]
  for (const s of alive) {
    const found = (await ask(s, 'SELECT balance FROM accounts WHERE id <= 2 ORDER BY id')).map((r) =>
      Number(r['balance']),
    )
    if (String(found) !== String(expected))
      fail(`balances on ${s.port}: ${found.join()}, and ${expected.join()} were acknowledged`)
  }
  w.balances = expected
  result.destroyed = gone.size > 0
  await finishOwner(owner)
  return result
}

/** The driver closes in its own time; a process that does not come back is replaced by the caller. */
async function finishOwner(owner: Owner): Promise<void> {
  owner.say('end')
  if (!(await owner.hear('ended', 15_000))) await owner.kill()
}
