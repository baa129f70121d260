/**
 * One simulated process that uses the driver: the production core on simulated replicas, with the few lines of
 * pool/client.ts around it that need pg there. Its workers append to and read lists in every way that the driver
 * knows, and write down what they did and were told.
 */
import { QuorumError } from '../../driver/errors.ts'
import { parseLocks, type Lock, type LockRequest } from '../../driver/protocol/locks.ts'
import { catchUp } from '../../driver/repair/catch-up.ts'
import { resolve } from '../../driver/repair/resolve.ts'
import { Sweep } from '../../driver/repair/sweep.ts'
import type { Replica } from '../../driver/replica/replica.ts'
import { isConflict, isServersWord } from '../../driver/replica/sqlstate.ts'
import { jitter, sleep } from '../../driver/runtime.ts'
import { Cluster } from '../../driver/transaction/cluster.ts'
import { readRow } from '../../driver/transaction/read-row.ts'
import { readStrongly } from '../../driver/transaction/read.ts'
import { Transaction, type Begin } from '../../driver/transaction/transaction.ts'
import type { Mop, Transaction as Recorded } from '../checker/history.ts'
import { SimLead, SimReplica } from './replica.ts'
import type { Dice } from './dice.ts'
import { dialOf } from './plan.ts'
import type { Run } from './run.ts'
import { Readers, type WeakMode } from './weak.ts'
import { type Actor } from './world.ts'
import { shape, type Shape } from './workload.ts'

const LISTS = 'public.lists'
const ONE_SHOT_TRIES = 6

type Open = { -readonly [K in keyof Recorded]: Recorded[K] } & { mops: Mop[] }

export class Client {
  readonly actor: Actor
  readonly cluster: Cluster
  readonly #run: Run
  busy = 0
  ending = false

  /** Call it on behalf of its own actor. */
  constructor(run: Run, actor: Actor) {
    this.#run = run
    this.actor = actor
    this.#home = run.plan.anyLead ? run.world.dice(`home ${actor.name}`).below(run.servers.length) : 0
    this.cluster = new Cluster(
      (c) =>
        run.servers.map(
          (server) =>
            new SimReplica({
              world: run.world,
              server,
              members: run.servers.length,
              link: run.link(actor, server),
              client: actor,
              connectMs: run.plan.limits.connect_ms,
              callMs: run.plan.limits.call_ms,
              check: c.check,
            }),
        ),
      run.plan.limits,
    )
    if (run.plan.floor !== undefined) {
      this.cluster.dial = { ...this.cluster.dial, ...dialOf(run.plan) }
      this.#readers = new Readers(this.cluster)
    }
    if (run.stopped || run.world.dice(`sweep ${actor.name}`).hits(run.plan.sweeping)) this.sweep()
  }
  readonly #leads = new Set<SimLead>()
  readonly #home: number
  readonly #readers: Readers | undefined

  sweep(): void {
    if (this.#sweeping) return
    this.#sweeping = true
    new Sweep(this.cluster, (replica) => {
      this.#leads.forEach((l) => {
        if (l.replica() === replica) l.destroy()
      })
      this.#readers?.abandon(replica as SimReplica)
    })
  }
  #sweeping = false

  async work(worker: number): Promise<void> {
    const { world, plan } = this.#run
    const dice = world.dice(`work ${this.actor.name}/${worker}`)
    let lead: SimLead | undefined
    while (!this.#run.stopped && !this.ending && this.#run.started < plan.transactions) {
      this.#run.started++
      if (this.#readers && dice.hits(0.4)) await this.#weakly(this.#readers, dice)
      lead = await this.#transact(lead, shape(dice, plan), `${this.actor.name}/${worker}`)
      await sleep(dice.between(0, plan.think_ms))
    }
  }

  /** A read that is not strong, on any replica. It has no part in the history that must be serializable. */
  async #weakly(readers: Readers, dice: Dice): Promise<void> {
    const { plan, world } = this.#run
    const mode = dice.pick<WeakMode>([
      'session',
      'session',
      'session',
      'eventual',
      { stale_ms: dice.pick([5, 50, 400]) },
      { lag: dice.below(3) },
    ])
    const step: Shape['steps'][number] = dice.hits(0.6) ? ['scan', ''] : ['read', dice.pick(plan.keys)]
    const record: Open = { id: -1, process: '', type: 'info', mops: [], start: world.now, end: Infinity }
    const order = this.cluster.replicas
      .map((r) => ({ r, at: dice.next() }))
      .sort((a, b) => a.at - b.at)
      .map(({ r }) => r as SimReplica)
    // Freshness is of use only to the same read again, on the same replica: and where the bound ends is what matters.
    const bound_ms = typeof mode === 'object' && 'stale_ms' in mode ? mode.stale_ms : 0
    for (let left = bound_ms > 0 ? 4 : 1; left > 0; left--) {
      const began = world.now
      const lists = await readers.read(mode, requestOf(step), left > 2 ? order : [...order].reverse(), async (lead) => {
        record.mops.length = 0
        await this.#do(lead, step, record)
        return new Map(record.mops.flatMap((m) => (m[0] === 'r' ? [[m[1], m[2] ?? []] as const] : [])))
      })
      if (lists && this.actor.alive)
        this.#run.weak.push({ session: this.actor.name, mode, began, end: world.now, lists })
      if (left > 1) await sleep(bound_ms * dice.between(0.1, 0.95))
    }
  }

  /** Liveness: this write must come through, however often it is refused before. */
  async probe(key: string): Promise<void> {
    let lead: SimLead | undefined
    for (let done = false; !done;) {
      const before = this.#run.checks.acknowledged
      lead = await this.#transact(
        lead,
        { kind: 'declared', locks: [`lists/${key}`], steps: [['append', key]], isolation: 'read committed' },
        `${this.actor.name}/probe-${key}`,
      )
      done = this.#run.checks.acknowledged > before
      if (!done) await sleep(50)
    }
  }

  async #transact(lead: SimLead | undefined, what: Shape, process: string): Promise<SimLead | undefined> {
    this.busy++
    try {
      lead = lead?.usable ? lead : await this.#connect()
    } catch (error) {
      this.busy--
      this.#classify(error)
      await sleep(20)
      return undefined
    }
    const tries = what.kind === 'one-shot' ? ONE_SHOT_TRIES : 1
    const missed: LockRequest[] = []
    for (let attempt = 1; attempt <= tries; attempt++) {
      const record: Open = {
        id: this.#run.history.length,
        process,
        type: 'info',
        mops: [],
        start: this.#run.world.now,
        end: Infinity,
      }
      this.#run.history.push(record)
      lead.gid = undefined
      const error = await this.#attempt(lead, what, record, attempt, missed).then(
        () => undefined,
        (e: unknown) => e ?? new Error('nothing'),
      )
      if (!this.actor.alive) return undefined
      record.end = this.#run.world.now
      if (error === undefined) {
        record.type = 'ok'
        if (lead.gid !== undefined) this.#run.checks.acknowledge(lead.gid, this.#run.servers, process)
        else this.#run.reads++
        break
      }
      const outcome = this.#classify(error)
      record.type = outcome === 'unknown' ? 'info' : 'fail'
      const gid = lead.gid
      if (gid !== undefined && outcome === 'not-committed')
        this.#run.checks.decided(gid, 'abort', `refused to ${process}`)
      if (outcome === 'unknown') this.#run.unknown++
      if (gid !== undefined && outcome === 'unknown') void this.ask(gid, process)
      if (lead.status() === 'T' || lead.status() === 'E') await lead.rollback().catch(() => lead?.destroy())
      const again =
        error instanceof QuorumError
          ? error.code === '40001' && error.retryable
          : isServersWord(error) && isConflict(error.code ?? '')
      if (!again || !lead.usable) break
      await catchUp(this.cluster, lead.replica()).catch(() => undefined)
      await sleep(jitter(5 * attempt))
    }
    this.busy--
    if (!lead.usable) {
      lead.destroy()
      this.#leads.delete(lead)
      return undefined
    }
    return lead
  }

  /** As outcomeOf: whatever it says must be what everybody says. */
  async ask(gid: string, process: string): Promise<void> {
    const decision = await resolve(this.cluster, gid)
    if (typeof decision === 'string') this.#run.checks.decided(gid, decision, `answered to ${process}`)
  }

  async #connect(): Promise<SimLead> {
    const answered = await this.cluster.assemble()
    const distance = (r: Replica): number =>
      (r.index - this.#home + this.cluster.replicas.length) % this.cluster.replicas.length
    const best = this.cluster.preferred([...answered].sort((a, b) => distance(a) - distance(b))) as SimReplica
    try {
      const lead = new SimLead(best, await best.connect())
      this.#leads.add(lead)
      return lead
    } catch (error) {
      if (!isServersWord(error)) this.cluster.shun(best, error)
      throw error
    }
  }

  /**
   * What a user may conclude. Anything that is neither ours nor a server's nor a lost connection is a defect of the
   * driver.
   */
  #classify(error: unknown): 'not-committed' | 'unknown' {
    if (error instanceof QuorumError) {
      if (error.outcome === 'committed') this.#run.checks.fail(`an error that says committed: ${error.message}`)
      return error.outcome === 'unknown' ? 'unknown' : 'not-committed'
    }
    const code = (error as { code?: string }).code
    if (!isServersWord(error) && code !== 'ECONNRESET' && (error as Error).name !== 'TimeoutError')
      this.#run.checks.fail(`unexpected error: ${(error as Error).stack}`)
    return 'not-committed'
  }

  async #attempt(lead: SimLead, what: Shape, record: Open, attempt: number, missed: LockRequest[]): Promise<void> {
    const reading = what.steps.every(([kind]) => kind === 'read' || kind === 'scan')
    const requests = what.steps.flatMap((s) => requestOf(s))
    if (what.kind === 'one-shot' && reading) {
      const work = async (): Promise<void> => {
        record.mops.length = 0
        for (const s of what.steps) await this.#do(lead, s, record)
      }
      const [only] = requests // first as pool.query does it
      if (requests.length !== 1 || !only?.k || !(await readRow(this.cluster, lead, only, work, true)))
        await readStrongly(this.cluster, lead, requests, work)
      return
    }
    const implicit = what.kind === 'one-shot'
    const declared =
      what.kind === 'declared' ? parseLocks(what.locks) : implicit && attempt > 1 ? [...requests, ...missed] : []
    const begin: Begin = implicit ? { implicit } : { isolation: what.isolation, readOnly: reading }
    const transaction = new Transaction(this.cluster, lead, declared, begin)
    try {
      await transaction.prepare()
      const began = this.#run.world.now
      await lead.run('begin', what.isolation)
      await transaction.began()
      for (const s of what.steps) {
        await transaction.touch(requestOf(s))
        await this.#do(lead, s, record)
      }
      await transaction.commit(async () => {
        if (lead.gid !== undefined && what.kind === 'declared')
          this.#run.checks.section({ names: exclusive(what.locks), began, gid: lead.gid })
        return { command: await lead.run<string>('commit') }
      })
    } finally {
      missed.push(...transaction.missed)
      transaction.drop()
    }
  }

  async #do(lead: SimLead, [kind, key]: Shape['steps'][number], record: Open): Promise<void> {
    switch (kind) {
      case 'append': {
        const value = ++this.#run.values
        record.mops.push(['append', key, value])
        await lead.run('append', LISTS, key, String(value))
        return
      }
      case 'read':
        record.mops.push(['r', key, numbers(await lead.run<string | null>('read', LISTS, key))])
        return
      case 'scan': {
        const rows = new Map(await lead.run<[string, string][]>('scan', LISTS))
        for (const k of this.#run.plan.keys) record.mops.push(['r', k, numbers(rows.get(k) ?? null)])
        return
      }
      case 'insert':
        await lead.run('insert', 'public.once', `${record.process}-${record.id}`, key)
    }
  }
}

const numbers = (text: string | null): number[] => (text ? text.split(',').map(Number) : [])
const exclusive = (locks: readonly Lock[]): string[] => locks.filter((l): l is string => typeof l === 'string')

/** What the text of the statement would name; an INSERT's row is only seen at the seal. */
function requestOf([kind, key]: Shape['steps'][number]): LockRequest[] {
  if (kind === 'insert') return []
  return [kind === 'scan' ? { t: 'lists', w: false } : { t: 'lists', w: kind === 'append', k: [key] }]
}
