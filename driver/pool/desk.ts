/** What a client lends to those who work on its connection. */
import type pg from 'pg'
import type { LeadSession } from '../replica/replica.ts'
import type { Config } from './arguments.ts'
import type { Wiring } from './connect.ts'
import type { Relay } from './submittable.ts'

/** A user's statement; a relay carries it if it is a stream or a cursor. */
export type Asked = Config & { relay?: Relay }

/** What the client lends: its connection to the lead. */
export interface Desk {
  readonly wiring: Wiring
  readonly lead: LeadSession
  /** A statement of the user's. */
  ask(config: Asked): Promise<unknown>
  /**
   * The same, prepared if that is of use: it names its rows by key, by what names mean at this version of
   * everything.
   */
  named(config: Asked, everything: number): Asked
  /**
   * What these send goes out at once; settles when all has been answered. After one that failed inside a
   * transaction, PostgreSQL runs none of the others.
   */
  flight(sends: readonly (() => Promise<unknown>)[]): Promise<PromiseSettledResult<unknown>[]>
  /** A question of the driver's own. */
  own(text: string, values?: unknown[]): Promise<pg.QueryResult>
  /** A notice to the user. */
  warn(message: string): void
  /** The session listens to these channels, and no others. */
  listen(channels: readonly string[]): Promise<void>
}
