/**
 * The verdict: what was acknowledged against what is there, every history against the checker, what was said about
 * a transaction against what became of it.
 */
import { checkBank } from '../checker/bank.ts'
import type { Anomaly, Mop } from '../checker/history.ts'
import { checkFinal, checkListAppend } from '../checker/list-append.ts'
import type { Books } from './aftermath.ts'
import { historyOf, type Operation, type Story } from './journal.ts'
import { ACCOUNTS, BALANCE } from './workload.ts'

export interface Verdict {
  /** Acknowledged, and not on every server exactly once. */
  lost: string[]
  /** Said not to have happened, and there all the same. */
  risen: string[]
  /** What outcomeOf answered is not what happened, or it changed its mind. */
  denied: string[]
  /** Errors that do not say whether it happened, and were not open. */
  untyped: string[]
  anomalies: Anomaly[]
  /** The balances are not what the transfers that are there make. */
  wrong: string[]
}

const appends = (op: Operation): { key: string; value: number }[] =>
  op.invoked.flatMap((m) => (m[0] === 'append' ? [{ key: m[1], value: m[2] }] : []))

export function judge(story: Story, servers: readonly Books[]): Verdict {
  const verdict: Verdict = { lost: [], risen: [], denied: [], untyped: [], anomalies: [], wrong: [] }
  servers.forEach((books, server) => onServer(story, books, `server ${server + 1}`, verdict))
  const [first] = servers
  // The rows at the end are one more read, of everything: with it the order of all appends is known, not only of
  // those that were read.
  const after = Math.max(0, ...story.operations.map((op) => (op.end === Infinity ? op.start : op.end))) + 1
  const history = [
    ...historyOf(story),
    ...(first
      ? [
          {
            id: 0,
            process: 'the end',
            type: 'ok' as const,
            mops: [...first.lists].map(([k, v]): Mop => ['r', k, v]),
            start: after,
            end: after + 1,
          },
        ]
      : []),
  ]
  verdict.anomalies = [
    ...checkListAppend(history, { realtime: true }),
    ...(first ? checkFinal(history, first.lists) : []),
    ...checkBank(story.totals, ACCOUNTS * BALANCE),
  ]
  for (const op of story.operations) {
    if (op.untyped) verdict.untyped.push(`${op.how} ${op.id}: ${op.code} ${op.text}`)
    const answers = new Set(op.answers.filter((a) => a === 'committed' || a === 'not-committed'))
    if (answers.size > 1) verdict.denied.push(`outcomeOf(${op.gid}) changed its mind: ${op.answers.join(', ')}`)
  }
  return verdict
}

function onServer(story: Story, books: Books, server: string, verdict: Verdict): void {
  const count = new Map<string, number>()
  for (const [key, list] of books.lists)
    for (const v of list) count.set(`${key}/${v}`, (count.get(`${key}/${v}`) ?? 0) + 1)
  const balances = new Map(Array.from({ length: ACCOUNTS }, (_, i) => [i + 1, BALANCE]))
  const planned = new Set<string>()
  for (const op of story.operations) {
    const all = appends(op)
    for (const { key, value } of all) planned.add(`${key}/${value}`)
    const found = all.map(({ key, value }) => count.get(`${key}/${value}`) ?? 0)
    const what = `${op.how} ${op.id} (${all.map((a) => `${a.key}/${a.value}`).join(' ')})`
    if (op.type === 'ok' && found.some((n) => n !== 1))
      verdict.lost.push(`${what} was acknowledged, ${server} has it ${found.join(', ')} times`)
    if (op.type === 'fail' && found.some((n) => n !== 0))
      verdict.risen.push(`${what} failed (${op.code}), ${server} has it ${found.join(', ')} times`)
    if (op.type === 'info') {
      if (new Set(found).size > 1 || found.some((n) => n > 1))
        verdict.lost.push(`${what}, unknown, is on ${server} by halves or twice: ${found.join(', ')}`)
      if (op.answers.includes('committed') && found.includes(0))
        verdict.denied.push(`${what}: outcomeOf said committed, ${server} has it not`)
      if (op.answers.includes('not-committed') && found.some((n) => n > 0))
        verdict.denied.push(`${what}: outcomeOf said not committed, ${server} has it`)
    }
    if (op.move && (found[0] ?? 0) > 0) {
      balances.set(op.move.from, (balances.get(op.move.from) ?? 0) - op.move.amount)
      balances.set(op.move.to, (balances.get(op.move.to) ?? 0) + op.move.amount)
    }
  }
  for (const item of count.keys())
    if (!planned.has(item)) verdict.risen.push(`${server} has ${item}, which nobody appended`)
  for (const [id, balance] of balances) {
    if (books.balances.get(id) !== balance)
      verdict.wrong.push(
        `account ${id} on ${server}: ${books.balances.get(id)}, the transfers that are there make ${balance}`,
      )
  }
}
