/**
 * npm run sim -- --seeds 1..1000 [--jobs n] [--kind duel] | npm run sim -- --seed 42 [--without crash,cut-link]
 * [--transactions 5] … [--log]
 */
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { KINDS } from './faults.ts'
import { RUN_KINDS, type Overrides, type RunKind } from './plan.ts'
import type { Report } from './run.ts'
import { commandOf, runSeed, shrink } from './search.ts'

const NUMBERS = ['servers', 'clients', 'workers', 'transactions', 'faults'] as const
const CHUNK = 25

const values = ((): Record<string, string | boolean | undefined> => {
  const options = {
    seeds: { type: 'string' },
    seed: { type: 'string' },
    jobs: { type: 'string' },
    log: { type: 'boolean' },
    json: { type: 'boolean' },
    without: { type: 'string' },
    kind: { type: 'string' },
    'until-violation': { type: 'boolean' },
    work: { type: 'boolean' },
    ...Object.fromEntries(NUMBERS.map((n) => [n, { type: 'string' }])),
  } as const
  try {
    return parseArgs({ options }).values
  } catch (error) {
    return die(
      `${(error as Error).message}\nThere are: ${Object.keys(options)
        .filter((o) => o !== 'work' && o !== 'until-violation')
        .map((o) => `--${o}`)
        .join(' ')}`,
    )
  }
})()
process.stdout.on('error', () => process.exit(1)) // a reader that has seen enough, as head
const overrides: Overrides = {
  ...(values.kind === undefined ? {} : { kind: values.kind as RunKind }),
  ...(values.without === undefined ? {} : { without: String(values.without).split(',') }),
  ...Object.fromEntries(NUMBERS.flatMap((n) => (values[n] === undefined ? [] : [[n, Number(values[n])]]))),
}
if (overrides.kind && !RUN_KINDS.includes(overrides.kind))
  die(`'${overrides.kind}' is no kind of run. There are: ${RUN_KINDS.join(', ')}`)
for (const kind of overrides.without ?? [])
  if (!(KINDS as readonly string[]).includes(kind)) die(`'${kind}' is no kind of fault. There are: ${KINDS.join(', ')}`)

function die(message: string): never {
  console.error(message)
  process.exit(2)
}

if (values.work) {
  Error.stackTraceLimit = 0 // p-timeout makes an error for each call; a single seed's replay keeps the stacks
  process.on('message', (seed: number) => void runSeed(seed, overrides).then((r) => process.send!(r)))
  process.on('disconnect', () => process.exit(0))
  process.on('SIGINT', () => undefined) // the parent says when
} else if (values.seed !== undefined) {
  const report = await runSeed(Number(values.seed), overrides, values.log ? (line) => console.log(line) : undefined)
  console.log(values.json ? JSON.stringify(report) : report)
  process.exitCode = report.violations.length > 0 ? 1 : 0
} else if (values['until-violation']) {
  // In one process, for the mutants: the first seed that fails ends it.
  Error.stackTraceLimit = 0
  const [first = 1, last = first] = String(values.seeds).split('..').map(Number)
  let seed = first
  for (let failed = false; seed <= last && !failed; seed++) {
    const { violations } = await runSeed(seed, overrides)
    failed = violations.length > 0
    if (failed) console.log(`seed ${seed}: ${violations[0]}`)
  }
  console.log(`${seed - first} seeds`)
  process.exit(0)
} else {
  const range = /^(\d+)(?:\.\.(\d+))?$/.exec(String(values.seeds ?? '1..1000'))
  if (!range) die('--seeds is a range, as 1..1000')
  await search(Number(range[1]), Number(range[2] ?? range[1]))
}

async function search(first: number, last: number): Promise<void> {
  const from = performance.now()
  const sum = {
    seeds: 0,
    violations: 0,
    acknowledged: 0,
    reads: 0,
    weak: 0,
    refused: 0,
    unknown: 0,
    blocked: 0,
    blockedForEver: 0,
    events: 0,
    simulated_ms: 0,
  }
  const faults: Record<string, number> = {}
  const steps = new Set<string>()
  const failed: Report[] = []
  let next = first
  process.once('SIGINT', () => {
    next = last + 1
  }) // what is running ends, and the figures so far are told
  const add = (r: Report): void => {
    sum.seeds++
    for (const k of [
      'acknowledged',
      'reads',
      'weak',
      'refused',
      'unknown',
      'blocked',
      'blockedForEver',
      'events',
      'simulated_ms',
    ] as const)
      sum[k] += r[k]
    for (const [k, n] of Object.entries(r.faults)) faults[k] = (faults[k] ?? 0) + n
    for (const s of r.steps) steps.add(s)
    if (r.violations.length > 0) {
      sum.violations++
      failed.push(r)
      console.log(`seed ${r.seed}: ${r.violations[0]}`)
    }
    if (process.stderr.isTTY && sum.seeds % CHUNK === 0)
      process.stderr.write(`\r${sum.seeds} of ${last - first + 1} seeds, ${sum.violations} violations `)
  }
  const jobs = Math.min(Number(values.jobs ?? availableParallelism()), last - first + 1)
  await Promise.all(
    Array.from(
      { length: jobs },
      () =>
        new Promise<void>((resolve, reject) => {
          const worker = fork(
            import.meta.filename,
            ['--work', ...process.argv.slice(2).filter((a, i, all) => a !== '--seeds' && all[i - 1] !== '--seeds')],
            { execArgv: process.execArgv },
          )
          let running: number | undefined
          const give = (): void => {
            if (next > last) return worker.disconnect()
            worker.send((running = next++))
          }
          worker.on('message', (r: Report) => {
            add(r)
            running = undefined
            give()
          })
          worker.on('exit', (code) =>
            running === undefined ? resolve() : reject(new Error(`seed ${running} ended its process with ${code}`)),
          )
          give()
        }),
    ),
  )
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
  const real_s = (performance.now() - from) / 1000
  const figures = {
    ...sum,
    real_s: Number(real_s.toFixed(1)),
    simulated_per_real: Math.round(sum.simulated_ms / 1000 / real_s),
    faults,
    steps: [...steps].sort(),
  }
  if (values.json) console.log(JSON.stringify(figures))
  else {
    console.log(
      `${sum.seeds} seeds (${first}..${Math.min(last, first + sum.seeds - 1)}), ${sum.violations} with violations`,
    )
    console.log(
      `acknowledged ${sum.acknowledged}, reads ${sum.reads} (${sum.weak} of them weaker), refused ${sum.refused}, unknown ${sum.unknown}; seeds blocked by two lost leads (decision 4): ${sum.blocked}, for ever ${sum.blockedForEver}`,
    )
    console.log(
      `${(sum.simulated_ms / 3.6e6).toFixed(1)} h simulated in ${real_s.toFixed(0)} s: ${figures.simulated_per_real} s a second; ${sum.events} events`,
    )
    console.log(
      `faults: ${Object.entries(faults)
        .sort()
        .map(([k, n]) => `${k} ${n}`)
        .join(', ')}`,
    )
    console.log(`steps reached: ${figures.steps.join(', ')}`)
  }
  for (const r of failed.slice(0, 3)) {
    const small = await shrink(r.seed, r, overrides)
    console.log(`seed ${r.seed} again, made smaller: ${commandOf(r.seed, small)}`)
  }
  process.exitCode = failed.length > 0 ? 1 : 0
}
