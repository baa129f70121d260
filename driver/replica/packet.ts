/** What pg writes query by query, sent as one packet: a write to a socket costs more than what is in it. */
import type { Socket } from 'node:net'
import type pg from 'pg'

export function asOnePacket<T>(client: pg.ClientBase, send: () => T): T {
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection
  stream.cork()
  try {
    return send()
  } finally {
    stream.uncork()
  }
}
