/**
 * `npm run acme`: five real servers, several client processes, one minute of bad days, and the proof at the end.
 * Exit code 1 if anything is off, 130 after Ctrl-C. Everything it starts dies with it: the servers have watchers of
 * their own, the clients notice their parent's end.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { FAULTS } from './faults.ts'
import { sum, table, type Figures } from './report.ts'
import { run, Tidy, type Options, type Sabotage } from './run.ts'

const USAGE = `npm run acme -- [options]
  --seconds 60     how long the faults last, in each run
  --runs 1         how many runs, one after another; the seed grows by one
  --seed n         the plan of faults; default: by chance
  --servers 5      --clients 4      --workers 3 (in each client)
  --only a,b       only these faults: ${Object.keys(FAULTS).join(', ')}
  --sabotage x,y   row, append, read: the control, must end red
  --keep folder    where the journals of the clients are kept`

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    runs: { type: 'string', default: '1' },
    seed: { type: 'string' },
    servers: { type: 'string', default: '5' },
    clients: { type: 'string', default: '4' },
    workers: { type: 'string', default: '3' },
    only: { type: 'string' },
    sabotage: { type: 'string' },
    keep: { type: 'string' },
    help: { type: 'boolean' },
  },
})
const say = (line: string): void => void process.stdout.write(`${line.length > 80 ? `${line.slice(0, 79)}…` : line}\n`)

// Even the templates that the embedded servers would keep for next time go with the run. Enterable by the servers'
// own user.
const home = mkdtempSync(join(tmpdir(), 'pg-quorum-acme-home-'))
chmodSync(home, 0o1777)
process.env['TMPDIR'] = home

let tidy = new Tidy()
let ending: Promise<void> | undefined
const end = (): Promise<void> => (ending ??= tidy.all().finally(() => rmSync(home, { recursive: true, force: true })))
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  process.on(signal, () => void end().finally(() => process.exit(code)))
process.stdout.on('error', () => void end().finally(() => process.exit(1)))

async function play(): Promise<number> {
  if (values.help) {
    process.stdout.write(`${USAGE}\n`)
    return 0
  }
  const number = (name: 'seconds' | 'runs' | 'servers' | 'clients' | 'workers'): number => {
    const n = Number(values[name])
    if (!Number.isInteger(n) || n < 1) throw new Error(`--${name} takes a whole number\n${USAGE}`)
    return n
  }
  const seed = values.seed === undefined ? Math.floor(Math.random() * 1e6) : Number(values.seed)
  const all: Figures[] = []
  for (let i = 0; i < number('runs') && ending === undefined; i++) {
    tidy = new Tidy()
    const options: Options = {
      seconds: number('seconds'),
      servers: number('servers'),
      clients: number('clients'),
      workers: number('workers'),
      seed: seed + i,
      ...(values.only === undefined
        ? {}
        : { only: values.only.split(',').map((s) => s.trim()) as (keyof typeof FAULTS)[] }),
      ...(values.sabotage === undefined ? {} : { sabotage: values.sabotage.split(',') as Sabotage[] }),
      ...(values.keep === undefined ? {} : { keep: values.keep }),
    }
    say(
      `run ${i + 1}, seed ${options.seed}: ${options.servers} servers, ${options.clients} client processes with ${options.workers} workers each`,
    )
    const figures = await run(options, tidy, say)
    await tidy.all()
    all.push(figures)
    process.stdout.write(`${table(figures)}\n`)
  }
  if (all.length === 0) return 130
  const total = sum(all)
  if (all.length > 1) process.stdout.write(`${table(total)}\n`)
  process.stdout.write(`${JSON.stringify(total)}\n`)
  return total.passed ? 0 : 1
}

let code = 1
try {
  code = await play()
} catch (error) {
  if (ending === undefined) console.error(error)
}
if (ending === undefined) {
  await end()
  process.exit(code)
}
