/** The figures of a run, as one line of JSON and as a table of 80 columns. */
import type { State } from './aftermath.ts'
import type { Story } from './journal.ts'
import type { Verdict } from './judge.ts'
import type { Happened } from './nemesis.ts'
import { pausesOf } from './pauses.ts'
import type { Options } from './run.ts'

export interface Figures {
  seed: number
  runs: number
  seconds: number
  servers: number
  clients: number
  acknowledged_commits: number
  acknowledged_reads: number
  definite_errors: number
  indefinite_errors: number
  killed_under_way: number
  untyped_errors: number
  error_codes: Record<string, number>
  faults: Record<string, number>
  prepare_replies_lost_etc: number
  lost: number
  risen: number
  divergent: number
  anomalies: number
  outcome_lies: number
  balances_wrong: number
  in_doubt_left: number
  outcomes_asked: number
  longest_pause_ms: Record<string, number>
  healed_ms: number
  rebuilt: string
  slow_operations: number
  problems: string[]
  passed: boolean
}

export interface Material {
  options: Options
  story: Story
  verdict: Verdict
  states: readonly State[]
  divergent: number
  healed_ms: number
  rebuilt: string
  happened: readonly Happened[]
  dark: readonly { from: number; to: number }[]
  hits: number
  end: number
  wrong: readonly string[]
}

export function figuresOf(m: Material): Figures {
  const { operations, errors, slow, totals } = m.story
  const { verdict } = m
  const isWrite = (op: { invoked: readonly (readonly unknown[])[] }): boolean =>
    op.invoked.some((x) => x[0] === 'append')
  const writes = operations.filter((op) => op.type === 'ok' && isWrite(op))
  const failed = operations.filter((op) => op.type === 'fail')
  const open = operations.filter((op) => op.type === 'info')
  const pauses = pausesOf(
    m.happened,
    writes.map((op) => op.end).sort((a, b) => a - b),
    m.dark,
    m.end,
  )
  const codes: Record<string, number> = {}
  for (const { code } of [...failed, ...open, ...errors]) codes[code || 'none'] = (codes[code || 'none'] ?? 0) + 1
  const in_doubt_left = m.states.reduce((sum, s) => sum + s.prepared, 0)
  const untyped = [...verdict.untyped, ...errors.filter((e) => e.untyped).map((e) => `${e.code} ${e.text}`)]
  const positions = new Set(m.states.map((s) => s.position)).size
  const problems = [
    ...m.wrong,
    ...verdict.lost,
    ...verdict.risen,
    ...verdict.denied,
    ...verdict.wrong,
    ...verdict.anomalies.map((a) => `${a.kind}: ${a.message}`),
    ...(m.divergent > 0 ? [`${m.divergent} server(s) differ from the others`] : []),
    ...(positions > 1 ? ['the versions or chains differ'] : []),
    ...(in_doubt_left > 0 ? [`${in_doubt_left} left in doubt`] : []),
    ...slow.filter((s) => s.how.includes('never ended')).map((s) => `${s.how}: ${Math.round(s.ms)} ms`),
    ...(writes.length === 0 ? ['nothing was committed: nothing was shown'] : []),
  ]
  return {
    seed: m.options.seed,
    runs: 1,
    seconds: m.options.seconds,
    servers: m.options.servers,
    clients: m.options.clients,
    acknowledged_commits: writes.length,
    acknowledged_reads: operations.filter((op) => op.type === 'ok').length - writes.length + totals.length,
    definite_errors: failed.filter((op) => op.code !== 'repeated').length + errors.filter((e) => !e.untyped).length,
    indefinite_errors: open.filter((op) => op.code !== 'killed').length,
    killed_under_way: open.filter((op) => op.code === 'killed').length,
    untyped_errors: untyped.length,
    error_codes: codes,
    faults: Object.fromEntries(pauses.map((p) => [p.kind, p.times])),
    prepare_replies_lost_etc: m.hits,
    lost: verdict.lost.length,
    risen: verdict.risen.length,
    divergent: m.divergent,
    anomalies: verdict.anomalies.length,
    outcome_lies: verdict.denied.length,
    balances_wrong: verdict.wrong.length,
    in_doubt_left,
    outcomes_asked: operations.filter((op) => op.answers.length > 0).length,
    longest_pause_ms: Object.fromEntries(pauses.map((p) => [p.kind, Math.round(p.longest_ms)])),
    healed_ms: Math.round(m.healed_ms),
    rebuilt: m.rebuilt,
    slow_operations: slow.length,
    problems: [...problems, ...untyped.slice(0, 5).map((u) => `note: an error that does not say what happened: ${u}`)],
    passed: problems.length === 0,
  }
}

/** Several runs as one. */
export function sum(all: readonly Figures[]): Figures {
  const [first] = all
  if (!first) throw new Error('no runs')
  const total: Figures = { ...first, runs: all.length }
  const add = (
    a: Record<string, number>,
    b: Record<string, number>,
    how: (x: number, y: number) => number,
  ): Record<string, number> => {
    const sums = { ...a }
    for (const [k, v] of Object.entries(b)) sums[k] = how(sums[k] ?? 0, v)
    return sums
  }
  for (const f of all.slice(1)) {
    for (const key of [
      'acknowledged_commits',
      'acknowledged_reads',
      'definite_errors',
      'indefinite_errors',
      'killed_under_way',
      'untyped_errors',
      'prepare_replies_lost_etc',
      'lost',
      'risen',
      'divergent',
      'anomalies',
      'outcome_lies',
      'balances_wrong',
      'in_doubt_left',
      'outcomes_asked',
      'slow_operations',
    ] as const)
      total[key] += f[key]
    total.error_codes = add(total.error_codes, f.error_codes, (x, y) => x + y)
    total.faults = add(total.faults, f.faults, (x, y) => x + y)
    total.longest_pause_ms = add(total.longest_pause_ms, f.longest_pause_ms, Math.max)
    total.healed_ms = Math.max(total.healed_ms, f.healed_ms)
    total.problems = [...total.problems, ...f.problems]
    total.passed &&= f.passed
    if (f.rebuilt.startsWith('not')) total.rebuilt = f.rebuilt
  }
  return total
}

export function table(f: Figures): string {
  const lines: string[] = ['']
  const row = (name: string, value: unknown): void =>
    void lines.push(`  ${name.padEnd(38)}${String(value).padStart(10)}`)
  lines.push(
    `${f.runs} run${f.runs === 1 ? '' : 's'} of ${f.seconds} s, ${f.servers} servers, ${f.clients} client processes, seed ${f.seed}`,
  )
  row('acknowledged commits', f.acknowledged_commits)
  row('acknowledged reads', f.acknowledged_reads)
  row('definite errors (certainly not)', f.definite_errors)
  row('indefinite errors (unknown)', f.indefinite_errors)
  row('under way when their client was killed', f.killed_under_way)
  row('errors that do not say (should be 0)', f.untyped_errors)
  lines.push('')
  row('acknowledged commits lost', f.lost)
  row('failed ones that are there', f.risen)
  row('divergent servers', f.divergent)
  row('anomalies, with real time', f.anomalies)
  row('wrong answers of outcomeOf', f.outcome_lies)
  row('wrong balances', f.balances_wrong)
  row('in doubt left', f.in_doubt_left)
  lines.push('', `  ${'fault'.padEnd(24)}${'times'.padStart(6)}  ${'longest write pause'.padStart(20)}`)
  for (const [kind, times] of Object.entries(f.faults).sort()) {
    lines.push(
      `  ${kind.padEnd(24)}${String(times).padStart(6)}  ${`${((f.longest_pause_ms[kind] ?? 0) / 1000).toFixed(1)} s`.padStart(20)}`,
    )
  }
  lines.push('', `  healed after ${(f.healed_ms / 1000).toFixed(1)} s`, ...wrap(`  rebuilt: ${f.rebuilt}`))
  for (const p of f.problems.slice(0, 20)) lines.push(...wrap(`  ${p.startsWith('note') ? '' : 'WRONG: '}${p}`))
  if (f.problems.length > 20) lines.push(`  … and ${f.problems.length - 20} more`)
  lines.push(f.passed ? '  Nothing was lost, nothing differs, no anomaly.' : '  FAILED', '')
  return lines.join('\n')
}

function wrap(text: string): string[] {
  return text.match(/.{1,76}(\s|$)|.{1,76}/g)?.map((line, i) => (i === 0 ? line : `    ${line}`).trimEnd()) ?? [text]
}
