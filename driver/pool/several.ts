/**
 * A string of several statements: what of it is an implicit transaction, as PostgreSQL would have it, and what
 * controls transactions itself.
 */
import { notSupported } from '../errors.ts'
import type { Statement } from '../sql/statement.ts'

const CONTROL = new Set(['begin', 'commit', 'rollback', 'savepoint'])
export const controls = (statement: Statement): boolean => CONTROL.has(statement.kind)

/**
 * In their order: statements that are run one by one, and lists that are one implicit transaction. open: it begins
 * inside a transaction.
 */
export function parts(statements: readonly Statement[], open: boolean): (Statement | Statement[])[] {
  const found: (Statement | Statement[])[] = []
  for (const statement of statements) {
    const last = found.at(-1)
    if (statement.kind === 'begin' && Array.isArray(last))
      throw notSupported(
        'BEGIN after other statements in one string (PostgreSQL would make them one transaction)',
        'Put BEGIN first, or send the statements before it by themselves.',
      )
    if (statement.kind === 'begin') open = true
    if (statement.kind === 'commit' || statement.kind === 'rollback') open = statement.chain ?? false
    if (open || controls(statement) || statement.kind === 'outside' || statement.kind === 'two-phase') {
      if (statement.kind === 'outside' && statements.length > 1)
        throw notSupported(
          `${statement.text.split(/\s+/).slice(0, 3).join(' ')} … cannot run inside a transaction, ` +
            'and a string of several statements is one',
          'Send it by itself.',
        )
      found.push(statement)
    } else if (Array.isArray(last)) last.push(statement)
    else found.push([statement])
  }
  return found
}
