/** Errors as a server sends them. */
import pg from 'pg'

export function refuse(code: string, message: string, severity = 'ERROR'): pg.DatabaseError {
  return Object.assign(new pg.DatabaseError(message, message.length, 'error'), { code, severity })
}
