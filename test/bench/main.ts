/**
 * `npm run bench`: the workloads of issue 7, ours beside plain pg on one server (the floor), PostgreSQL's
 * synchronous replication and two-phase commit by hand, by turns in one run; medians, spread, and ratios to the
 * floor of the same round. Ends with 1 if one of ours failed or our servers differ afterwards.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { CONTENDERS, type Contender } from './contenders.ts'
import { distance, roundTrips } from './distance.ts'
import { faults } from './faults.ts'
import { measure, median, type Result } from './measure.ts'
import { keep } from './performance.ts'
import { line, machine, table, type Run } from './report.ts'
import { accept, expected, fallen, SMALL } from './small.ts'
import { AT, NAMES, type Name } from './workloads.ts'

const HELP = `npm run bench -- [options]
  --only update,transfer,hot,select,eventual   --beside floor,synchronous,by hand,pg-quorum   --at 1,8,32 (callers)
  --ms 2500 --rounds 3   --n 3 (servers)   --json file   --keep: in docs/performance.json, and the tables and charts of docs/performance.md from it
  --rtt 20: every server that many ms away, there and back; without --at, one caller, and how many round trips each workload waits for
  --small: five ratios beside those of test/bench/expected.json, below 2 minutes; ends with 1 if one fell by a third; --small --accept writes that file
  --faults: how long callers wait when a server is killed or stands still; with --at (callers, 8), --rounds, --only transaction/lead-stopped,read,control`
const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    beside: { type: 'string' },
    at: { type: 'string' },
    ms: { type: 'string', default: '2500' },
    rounds: { type: 'string', default: '3' },
    n: { type: 'string', default: '3' },
    rtt: { type: 'string', default: '0' },
    json: { type: 'string' },
    keep: { type: 'boolean' },
    small: { type: 'boolean' },
    accept: { type: 'boolean' },
    faults: { type: 'boolean' },
    help: { type: 'boolean' },
  },
})
const rtt_ms = Number(values.rtt)
type Kind = keyof typeof CONTENDERS

/** What was asked for, or a sentence. */
function some<T extends string>(asked: string | undefined, known: readonly T[], what: string): readonly T[] {
  const list = asked?.split(',') ?? known
  const stranger = list.find((x) => !known.includes(x as T))
  if (stranger !== undefined) throw new Error(`there is no ${what} '${stranger}'; there are ${known.join(', ')}`)
  return known.filter((x) => list.includes(x))
}

/** The floor is always there, and first. */
async function beside<T>(kinds: readonly Kind[], work: (contenders: readonly Contender[]) => Promise<T>): Promise<T> {
  const contenders: Contender[] = []
  const { way, close } = distance(rtt_ms)
  try {
    for (const kind of ['floor', ...kinds.filter((k) => k !== 'floor')] as const)
      contenders.push(await CONTENDERS[kind](Number(values.n), way))
    console.log(machine())
    return await work(contenders)
  } finally {
    await Promise.all(contenders.map((c) => c.destroy()))
    close()
  }
}

/** 1 if one of ours failed. */
function verdict(results: readonly Result[]): number {
  const failed = results.filter((r) => r.contender === 'pg-quorum' && r.failed > 0)
  for (const r of failed) console.error(`${r.failed} of ours failed (${r.workload}, ${r.workers} callers): ${r.error}`)
  return failed.length > 0 ? 1 : 0
}

async function full(): Promise<number> {
  const names = some<Name>(values.only, NAMES, 'workload')
  const results: Result[] = []
  await beside(some(values.beside, Object.keys(CONTENDERS) as Kind[], 'contender'), async (contenders) => {
    for (const name of names)
      for (const workers of values.at?.split(',').map(Number) ?? (rtt_ms > 0 ? [1] : AT[name])) {
        const measured = await measure(contenders, name, workers, Number(values.rounds), Number(values.ms))
        results.push(...measured)
        for (const r of measured) console.log(line(r))
      }
  })
  console.log(`\n${rtt_ms > 0 ? roundTrips(results, rtt_ms).join('\n') : table(results)}`)
  const run: Run = {
    date: new Date().toISOString(),
    machine: machine(),
    command: `npm run bench -- ${process.argv.slice(2).join(' ')}`.trim(),
    n: Number(values.n),
    rtt_ms,
    results,
  }
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(run))
  if (values.keep) keep({ [rtt_ms > 0 ? 'far' : Number(values.n) === 5 ? 'five' : 'main']: run })
  return verdict(results)
}

async function small(): Promise<number> {
  const results = await beside(['pg-quorum'], async (contenders) => {
    const found: Result[] = []
    for (const [name, workers] of SMALL) {
      const ask = async (): Promise<Result> => {
        const [base, mine] = (await measure(contenders, name, workers, 3, 1200)) as [Result, Result]
        for (const r of [base, mine]) console.log(line(r))
        return mine
      }
      let mine = await ask()
      if (!values.accept && fallen(expected(), [mine]).length > 0) {
        console.log('  once more: something else may have had the machine')
        mine = await ask()
      }
      found.push(mine)
    }
    return found
  })
  if (values.accept) {
    const others = median(results.map((r) => r.others))
    if (others > 0.25) {
      console.error(
        `NOT ACCEPTED: others had ${(others * 100).toFixed(0)} % of the machine, and ratios measured beside them would hide what becomes slower later; again when it is quiet`,
      )
      return 1
    }
    accept(results, machine())
  }
  const said = fallen(expected(), results)
  for (const sentence of said) console.error(`SLOWER: ${sentence}`)
  if (said.length === 0) console.log(`no ratio fell by a third since ${expected().date}`)
  return said.length > 0 ? 1 : verdict(results)
}

if (values.help) console.log(HELP)
else if (values.faults)
  process.exitCode = (await faults({
    rounds: Number(values.rounds),
    callers: Number(values.at ?? 8),
    ...(values.only ? { only: values.only.split(',') } : {}),
  }))
    ? 0
    : 1
else process.exitCode = await (values.small ? small() : full())
