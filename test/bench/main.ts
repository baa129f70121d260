/**
 * `npm run bench`: the workloads of issue 7, ours beside plain pg on one server (the floor), PostgreSQL's synchronous replication and two-phase commit by
 * hand, by turns in one run; medians, spread, and ratios to the floor of the same round. Ends with 1 if one of ours failed or our servers differ afterwards.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { CONTENDERS, type Contender } from './contenders.ts'
import { measure, type Result } from './measure.ts'
import { line, machine, table, type Run } from './report.ts'
import { AT, NAMES, type Name } from './workloads.ts'

const HELP = `npm run bench -- [options]
  --only update,transfer,hot,select,eventual   --beside floor,synchronous,by hand,pg-quorum   --at 1,8,32 (callers)
  --ms 2500 --rounds 3   --n 3 (servers)   --json file
  --faults: the pauses`
const { values } = parseArgs({ options: {
  only: { type: 'string' }, beside: { type: 'string' }, at: { type: 'string' }, ms: { type: 'string', default: '2500' }, rounds: { type: 'string', default: '3' }, n: { type: 'string', default: '3' },
  json: { type: 'string' }, faults: { type: 'boolean' }, help: { type: 'boolean' },
} })

/** What was asked for, or a sentence. */
function some<T extends string>(asked: string | undefined, known: readonly T[], what: string): readonly T[] {
  const list = asked?.split(',') ?? known
  const stranger = list.find((x) => !known.includes(x as T))
  if (stranger !== undefined) throw new Error(`there is no ${what} '${stranger}'; there are ${known.join(', ')}`)
  return known.filter((x) => list.includes(x))
}

async function everything(): Promise<number> {
  const names = some<Name>(values.only, NAMES, 'workload')
  const kinds = some(values.beside, Object.keys(CONTENDERS) as (keyof typeof CONTENDERS)[], 'contender').filter((k) => k !== 'floor')
  const n = Number(values.n)
  const contenders: Contender[] = []
  const results: Result[] = []
  try {
    for (const kind of ['floor', ...kinds] as const) contenders.push(await CONTENDERS[kind](n, (url) => Promise.resolve(url)))
    console.log(machine())
    for (const name of names) for (const workers of values.at?.split(',').map(Number) ?? AT[name]) {
      for (const r of await measure(contenders, name, workers, Number(values.rounds), Number(values.ms))) {
        results.push(r)
        console.log(line(r))
      }
    }
  } finally {
    await Promise.all(contenders.map((c) => c.destroy()))
  }
  console.log(`\n${table(results)}`)
  const run: Run = { date: new Date().toISOString(), machine: machine(), command: `npm run bench -- ${process.argv.slice(2).join(' ')}`, n, rtt_ms: 0, results }
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(run))
  const failed = results.filter((r) => r.contender === 'pg-quorum' && r.failed > 0)
  for (const r of failed) console.error(`${r.failed} of ours failed (${r.workload}, ${r.workers} callers): ${r.error}`)
  return failed.length > 0 ? 1 : 0
}

if (values.help) console.log(HELP)
else if (values.faults) await import(new URL('faults.ts', import.meta.url).href)
else process.exitCode = await everything()
