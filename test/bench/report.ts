/** Results as text: a line each while it runs, and the tables of docs/performance.md. */
import { cpus, loadavg } from 'node:os'
import { AT, NAMES } from './workloads.ts'
import type { Result } from './measure.ts'

/** Everything that one run measured, as it is kept in a file. */
export interface Run {
  readonly date: string
  readonly machine: string
  readonly command: string
  readonly n: number
  readonly rtt_ms: number
  readonly results: readonly Result[]
}

export const machine = (): string =>
  `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, Node ${process.version}, load ${loadavg()[0]!.toFixed(1)}`

/** From 1/8 ms to 2 s, a character for each power of two, as high as it is frequent. */
export function histogram(buckets: readonly number[]): string {
  const most = Math.max(...buckets, 1)
  return `▏${buckets.map((n) => (n === 0 ? ' ' : '▁▂▃▄▅▆▇█'[Math.max(0, Math.ceil((n / most) * 8) - 1)])).join('')}▕`
}

export function line(r: Result): string {
  const ms = (x: number): string => x.toFixed(x < 10 ? 2 : 0)
  return (
    `${`${r.workload} ${r.workers}`.padEnd(11)} ${r.contender.padEnd(12)} ${r.per_s.toFixed(0).padStart(5)}/s (${r.least.toFixed(0)}–${r.most.toFixed(0)}) ratio ${r.ratio.toFixed(2)} (${r.ratio_least.toFixed(2)}–${r.ratio_most.toFixed(2)})` +
    `  p50 ${ms(r.p50_ms)} p90 ${ms(r.p90_ms)} p99 ${ms(r.p99_ms)} max ${ms(r.max_ms)} ms ${histogram(r.buckets)}` +
    `  cpu ${r.client_ms.toFixed(2)} + ${r.servers_ms.toFixed(2)} ms, sends ${r.sends.toFixed(1)}, replies ${r.replies.toFixed(1)}, fsyncs ${r.fsyncs.toFixed(2)}, log ${(r.wal_bytes / 1024).toFixed(1)} kB${r.repeats ? `, repeats ${r.repeats.toFixed(3)}` : ''}${r.others > 0.1 ? `, others had ${(r.others * 100).toFixed(0)} % of the machine` : ''}${r.failed ? `, FAILED ${r.failed}: ${r.error}` : ''}`
  )
}

const TITLES = {
  update: 'single-row UPDATE',
  transfer: 'transfer (5 statements)',
  hot: 'hot row',
  select: 'point SELECT',
  eventual: 'SELECT, eventual',
}

/** Issue 7's table: throughput as a ratio to the floor. */
export function table(results: readonly Result[]): string {
  const columns = NAMES.filter((name) => results.some((r) => r.workload === name))
  const contenders = [...new Set(results.map((r) => r.contender))]
  const at = (name: (typeof NAMES)[number]): number[] =>
    AT[name].filter((w) => results.some((r) => r.workload === name && r.workers === w))
  const cell = (contender: string, name: (typeof NAMES)[number]): string =>
    at(name)
      .map((w) => {
        const r = results.find((x) => x.contender === contender && x.workload === name && x.workers === w)
        return r === undefined ? '–' : contender === 'floor' ? `${Math.round(r.per_s)}/s` : r.ratio.toFixed(2)
      })
      .join(' / ')
  return [
    `| callers | ${columns.map((c) => `${TITLES[c]} (${at(c).join(' / ')})`).join(' | ')} |`,
    `| --- |${' --- |'.repeat(columns.length)}`,
    ...contenders.map((c) => `| ${c} | ${columns.map((name) => cell(c, name)).join(' | ')} |`),
  ].join('\n')
}

const grid = (results: readonly Result[], shown: readonly string[], cell: (r: Result) => string): string => {
  const groups = shown.filter((g) => results.some((r) => `${r.workload} ${r.workers}` === g))
  const of = (c: string, g: string): string =>
    results.filter((r) => r.contender === c && `${r.workload} ${r.workers}` === g).map(cell)[0] ?? '–'
  return [
    `| | ${groups.join(' | ')} |`,
    `| --- |${' --- |'.repeat(groups.length)}`,
    ...[...new Set(results.map((r) => r.contender))].map(
      (c) => `| ${c} | ${groups.map((g) => of(c, g)).join(' | ')} |`,
    ),
  ].join('\n')
}
/** p50 / p99 / longest. */
export const latencies = (results: readonly Result[]): string =>
  grid(
    results,
    ['update 1', 'update 8', 'update 32', 'transfer 8', 'hot 32', 'select 1', 'select 32', 'eventual 32'],
    (r) => [r.p50_ms, r.p99_ms, r.max_ms].map((x) => x.toFixed(x < 10 ? 1 : 0)).join(' / '),
  )
/** Processor ms of client + servers; sends; flushes; log. */
export const costs = (results: readonly Result[]): string =>
  grid(
    results,
    ['update 1', 'update 8', 'transfer 8', 'hot 8', 'select 1', 'select 32', 'eventual 32'],
    (r) =>
      `${r.client_ms.toFixed(2)} + ${r.servers_ms.toFixed(2)} ms, ${r.sends.toFixed(1)} sends, ${r.fsyncs.toFixed(2)} flushes, ${(r.wal_bytes / 1024).toFixed(1)} kB`,
  )
