/**
 * What a server's error means for the protocol. A definite no is an error that the server itself reported about a
 * statement; everything else (a lost connection, a FATAL, our own deadline) is silence.
 */
import pg from 'pg'
import type { Refusal } from './replica.ts'

const REFUSALS: Readonly<Record<string, Refusal>> = {
  QB001: 'behind',
  QB002: 'ahead',
  QB003: 'promised',
  QB004: 'differs',
  QB005: 'epoch',
  QB008: 'committed',
  '55P03': 'busy',
  '40P01': 'busy',
}

export function isServersWord(error: unknown): error is pg.DatabaseError {
  return (
    error instanceof pg.DatabaseError &&
    error.severity !== 'FATAL' &&
    error.severity !== 'PANIC' &&
    !/^(08|57P)/.test(error.code ?? '')
  )
}

export const refusalOf = (error: pg.DatabaseError): Refusal => REFUSALS[error.code ?? ''] ?? 'refused'

/** A statement that failed for another transaction's sake: worth another try. */
export const isConflict = (code: string): boolean => code === '40001' || code === '40P01' || code === '55P03'

/** An unknown table, column, function, object or schema. */
export const namesNothing = (code: string): boolean => ['42P01', '42703', '42883', '42704', '3F000'].includes(code)

/**
 * What a prepared statement may meet that is older than the schema: another result, values of another type; or it
 * is gone.
 */
export const isOutdated = (code: string): boolean => code === '0A000' || code === '26000' || code.startsWith('22')

/** Connecting failed, so nothing was sent. */
export const isRefusedLogin = (error: unknown): boolean =>
  error instanceof pg.DatabaseError && /^(28|3D)/.test(error.code ?? '')
