/**
 * npm run bench:statements -- transfer 1 [seconds]: what a workload of `npm run bench` sends to the three servers,
 * and how long they take for it by their own logs; per transaction.
 */
import { readFileSync } from 'node:fs'
import { ours } from './contenders.ts'
import { run, type Name } from './workloads.ts'
import { ask } from '../servers.ts'

const [name = 'transfer', callers = '1', seconds = '3'] = process.argv.slice(2)
const contender = await ours(3, (url) => Promise.resolve(url))
try {
  const logs = await Promise.all(
    contender.servers.map(async (s) => {
      await ask(s, 'ALTER SYSTEM SET log_min_duration_statement = 0')
      await ask(s, "ALTER SYSTEM SET log_line_prefix = '@'")
      await ask(s, 'SELECT pg_reload_conf()')
      return `${String((await ask(s, 'SHOW data_directory'))[0]!['data_directory'])}/server.log`
    }),
  )
  const { does, end } = contender.open(Number(callers))
  await run(does[name as Name], Number(callers), 2500) // until plans are kept, and Node has compiled
  const from = logs.map((log) => readFileSync(log).length)
  const { took } = await run(does[name as Name], Number(callers), Number(seconds) * 1000)
  const found = new Map<string, { times: number; ms: number }>()
  for (const [i, log] of logs.entries()) {
    for (const line of readFileSync(log).subarray(from[i]!).toString().split('\n@')) {
      const [, ms, how, text] = /^LOG: +duration: ([\d.]+) ms +(\w+)[^:]*: ([^]*)/.exec(line) ?? []
      if (text === undefined) continue
      const what = `${String(how)} ${text
        .replace(/\n?@?DETAIL[^]*/, '')
        .replace(/'[^']*'/g, "'…'")
        .replace(/\d{2,}/g, '#')
        .replace(/\s+/g, ' ')
        .trim()
        .slice(0, 110)}`
      const known = found.get(what) ?? { times: 0, ms: 0 }
      found.set(what, { times: known.times + 1, ms: known.ms + Number(ms) })
    }
  }
  console.log(
    `${name}, ${callers} at once, ${took.length} done; p50 ${[...took].sort((a, b) => a - b)[took.length >> 1]?.toFixed(2)} ms with these logs\n\nms per transaction, times in it, ms each`,
  )
  for (const [what, { times, ms }] of [...found].sort((a, b) => b[1].ms - a[1].ms).slice(0, 20))
    console.log(
      `${(ms / took.length).toFixed(3)}  ${(times / took.length).toFixed(2).padStart(5)}  ${(ms / times).toFixed(3)}  ${what}`,
    )
  await end()
} finally {
  await contender.destroy()
}
