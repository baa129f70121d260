/**
 * What pg has no method for, in one place: aiming a client that is not connected yet at another member, cutting its
 * connection at once, closing a prepared statement, and telling a lost lead, and what may be repeated, from a
 * user's own error.
 */
import pg from 'pg'
import { codeOf, leadLost, QuorumError } from '../errors.ts'
import { isConflict, isServersWord } from '../replica/sqlstate.ts'

const AIMED = [
  'connectionParameters',
  'user',
  'database',
  'port',
  'host',
  'ssl',
  'sslNegotiation',
  'enableChannelBinding',
  'scramMaxIterations',
  'connection',
] as const

/** pg.Client fixes its server in the constructor; we know the best member only once a majority has answered. */
export function aim(client: pg.Client, config: pg.ClientConfig): void {
  const aimed = new pg.Client(config)
  // Some listen there before they connect (Sequelize does, for parameterStatus).
  for (const event of client.connection.eventNames()) {
    if (event !== 'newListener')
      for (const listener of client.connection.rawListeners(event)) aimed.connection.on(event, listener as () => void)
  }
  for (const field of AIMED) Object.assign(client, { [field]: (aimed as unknown as Record<string, unknown>)[field] })
  Object.defineProperty(client, 'password', {
    configurable: true,
    enumerable: false,
    writable: true,
    value: aimed.password,
  })
}

/** end() would wait for an answer that may never come. */
export function cut(client: pg.Client): void {
  ;(client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
}

/** A prepared statement goes; no error if it is gone. What is sent next flushes it. */
export function close(client: pg.Client, name: string): void {
  const connection = client.connection as unknown as {
    parsedStatements: Record<string, string>
    close(what: { type: 'S'; name: string }): void
  }
  delete connection.parsedStatements[name]
  connection.close({ type: 'S', name })
}

/** pg's error for a user's statement stays as it is; a lost lead is said as such: nothing was committed. */
export function inPlainWords(error: unknown, lead: string): unknown {
  if (error instanceof QuorumError || isServersWord(error)) return error
  if (/Client was closed/.test(String(error))) return error // by its user
  if (!/Connection terminated|ECONNRESET|EPIPE|not queryable|57P0/.test(`${String(error)} ${codeOf(error)}`))
    return error
  return leadLost(
    `the lead ${lead} was lost before the commit: nothing was committed. What lived in its session ` +
      '(SET, temporary tables, LISTEN, prepared statements, session-level locks) is gone',
    error,
  )
}

/** Only what certainly did not happen, and only where a repetition can help. */
export function mayRepeat(error: unknown): boolean {
  if (error instanceof QuorumError) return error.retryable && error.code !== '08001'
  return isConflict(codeOf(error))
}

/** pg's query_timeout has struck: the statement still runs on its server. */
export const isTimeout = (error: unknown): boolean => error instanceof Error && error.message === 'Query read timeout'
