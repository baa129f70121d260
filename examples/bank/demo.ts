/**
 * `npm run demo`: a bank on three PostgreSQL servers that stays open while one of them is killed, a client is
 * killed in the middle of a commit, and the dead server comes back. First the play, then the audit; exit code 1 if
 * anything is off, 130 after Ctrl-C. Everything it starts dies with it: the servers have watchers of their own
 * (driver/embedded), the clients notice that their parent is gone.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startServers, type EmbeddedServer } from '../../driver/embedded/embedded.ts'
import { Pool } from '../../driver/index.ts'
import { init } from '../../driver/schema/install.ts'
import { audit } from './audit.ts'
import { ACCOUNTS, openBank } from './bank.ts'
import { Chart } from './chart.ts'
import { Fleet } from './fleet.ts'
import { failures, happened, pauses, proof, type Event } from './report.ts'
import { ask, DoubtWatch, preparedOn, Return } from './watch.ts'

const AT = { serverDies: 5000, clientDies: 9000, serverReturns: 13_000, end: 20_000 }
// Even the templates that the embedded servers would keep for next time go with the demo. Enterable by the servers'
// own user.
const home = mkdtempSync(join(tmpdir(), 'pg-quorum-demo-'))
chmodSync(home, 0o1777)
process.env['TMPDIR'] = home

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

let servers: EmbeddedServer[] = []
let starting: Promise<unknown> = Promise.resolve()
let fleet: Fleet | undefined
let ending: Promise<void> | undefined

/** Idempotent, as it may be called by the end of the play and by an impatient user at once. */
function tidy(): Promise<void> {
  return (ending ??= (async () => {
    fleet?.killAll()
    await starting.catch(() => undefined)
    await Promise.all(servers.map((s) => s.destroy()))
    rmSync(home, { recursive: true, force: true })
  })())
}

// npm passes Ctrl-C on to us and the terminal sends it too: a second signal is no impatience, and tidying takes a
// second anyway.
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  process.on(signal, () => void tidy().finally(() => process.exit(code)))
process.stdout.on('error', () => void tidy().finally(() => process.exit(1))) // `npm run demo | head`

async function play(): Promise<string[]> {
  say('Starting three PostgreSQL servers and opening a bank …')
  const began = performance.now()
  servers = (await (starting = startServers(3))) as EmbeddedServer[]
  const [first, second] = servers
  if (!first || !second) throw new Error('there are no servers')
  const urls = servers.map((s) => s.url)
  await init(
    urls.map((connectionString) => ({ connectionString })),
    urls.map((_, i) => `server ${i + 1}`),
  )
  const founder = new Pool({ replicas: urls })
  await openBank(founder)
  await founder.end()

  fleet = new Fleet(urls)
  const bank = fleet
  const [one, two] = await Promise.all([bank.start('client 1'), bank.start('client 2')])
  say(
    `${ACCOUNTS} accounts on ports ${servers.map((s) => s.port).join(', ')} after ${((performance.now() - began) / 1000).toFixed(1)} s. 2 client processes with 4 workers each transfer money.\n`,
  )

  const start = Date.now()
  const until = (ms: number): Promise<void> => sleep(Math.max(0, start + ms - Date.now()))
  const events: Event[] = [{ name: 'the start', at: start }]
  const chart = new Chart(() => bank.acknowledged.size)
  const mark = (name: string, text: string): void => {
    events.push({ name, at: Date.now() })
    chart.say(text, true)
  }
  bank.send(one, 'go')
  bank.send(two, 'go')

  await until(AT.serverDies)
  const died = new Date()
  mark('kill -9 of server 1', 'kill -9 of server 1, the lead')
  await first.kill()

  await until(AT.clientDies)
  const doubt = new DoubtWatch(servers, (owner) => bank.deadOwners.has(owner))
  doubt.start()
  mark('kill -9 of client 2', 'kill -9 of client 2 in the middle of a commit')
  await bank.kill(two)
  await sleep(1000)
  const three = await bank.start('client 3')
  bank.send(three, 'go')
  chart.say('client 3 takes its place')

  await until(AT.serverReturns)
  mark('the return of server 1', 'server 1 is started again')
  await first.start()
  const back = new Return()
  await Promise.all([
    doubt.look(first, died),
    back
      .watch(first, second, died, 20_000, (missed) => chart.say(`server 1 is up, and has missed ${missed} changesets`))
      .then(
        () =>
          back.level_ms !== undefined &&
          chart.say(`server 1 is level again after ${(back.level_ms / 1000).toFixed(1)} s`),
      ),
    until(AT.end),
  ])
  const end = Date.now()
  await bank.stop()
  chart.stop()
  await doubt.stop()

  // Doubt ends by the use of the database, whoever uses it; a client that died last left it to the next one.
  const reader = new Pool({ replicas: urls })
  await reader.query('SELECT sum(balance) FROM accounts')
  const found = new Set([...doubt.found, ...bank.dyingGids])
  const left = async (): Promise<string[]> => (await Promise.all(servers.map(preparedOn))).flat()
  for (const patience = Date.now() + 3000; (await left()).length > 0 && Date.now() < patience;) await sleep(50)
  await reader.end()

  const prepared = new Set(await left())
  const result = await audit(servers, bank)
  const [committed] =
    (await ask<{ n: number }>(second, 'SELECT count(*)::int AS n FROM quorum.applied WHERE gid = ANY ($1)', [
      [...found],
    ])) ?? []
  const finished = [...found].filter((gid) => !prepared.has(gid)).length
  say('')
  say(
    happened(bank, result, pauses(bank, events, end), {
      doubt: { found: found.size, finished, committed: committed?.n ?? 0 },
      missed: back.missed,
      level_ms: back.level_ms,
      seconds: (end - start) / 1000,
    }),
  )
  for (const line of failures(bank)) say(`  ${line}`)
  say(proof(result))
  if (found.size === 0) result.wrong.push('client 2 was not killed in the middle of a commit: nothing was in doubt')
  if (back.level_ms === undefined) result.wrong.push('server 1 was not caught up')
  return result.wrong
}

let code = 1
try {
  const wrong = await play()
  if (wrong.length === 0) say('Nothing was lost: the three servers hold the same rows, and the bank the same total.')
  for (const line of wrong) say(`WRONG: ${line}`)
  code = wrong.length === 0 ? 0 : 1
} catch (error) {
  if (ending === undefined) console.error(error)
}
if (ending === undefined) {
  await tidy()
  process.exit(code)
}
