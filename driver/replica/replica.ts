/**
 * The port: everything the protocol asks of ONE replica. Replies are data: a refusal is an answer, silence is not
 * an exception. Rooms above know only this file; replica/postgres.ts keeps it over pg, a simulator may keep it over
 * memory.
 */
import type { Evidence, Decision } from '../protocol/decision.ts'
import type { BaseEntry, Granule, LockRequest, Versions } from '../protocol/locks.ts'
import type { Stripes } from '../protocol/seen.ts'

/** via: the function that accepts it, where the lead knows of a shorter one than `quorum.accept` (schema/rows.sql). */
export interface Changeset {
  readonly gid: string
  readonly body: string
  readonly via?: string | undefined
}
export interface Ballot {
  readonly number: number
  readonly by: string
}
/** The owner's ballot: needs no promise, since nobody else may use it. */
export const OWNER: Ballot = { number: 0, by: '' }

export interface Doubt {
  readonly gid: string
  readonly age_ms: number
  readonly owner_alive: boolean
}
export interface Observation {
  readonly granules: Granule[]
  readonly base: BaseEntry[]
  /** false: A was held by somebody else for longer than the patience; `doubt` names what is prepared here. */
  readonly free: boolean
  readonly doubt: Doubt[]
  /** On how many members every write is, as far as this one knows. */
  readonly write: number
}
/**
 * A row as looks name it: its table, and its key as a text array's text, or its stripe. everything: that is so at
 * this version of the schema.
 */
export interface Row {
  readonly t: string
  readonly key: string
  readonly everything: number
}
/**
 * How a row's stripe stands on a member: which it is, its version (-1: something is in doubt on it), and its
 * table's and everything's own.
 */
export interface Look {
  readonly n: number
  readonly version: number
  readonly whole: number
  readonly everything: number
  readonly write: number
}
/** As quorum.looks() writes them. */
export function looksFrom(said: string): Look[] {
  const numbers = said.split(' ').map(Number)
  const looks: Look[] = []
  for (let i = 2; i + 2 < numbers.length; i += 3)
    looks.push({
      n: numbers[i] ?? 0,
      version: numbers[i + 1] ?? -1,
      whole: numbers[i + 2] ?? 0,
      everything: numbers[1] ?? 0,
      write: numbers[0] ?? 0,
    })
  return looks
}

export type LockReply = (Observation & { readonly granted: true }) | { readonly granted: false }

export type Refusal =
  'behind' | 'ahead' | 'promised' | 'differs' | 'epoch' | 'committed' | 'busy' | 'refused' | 'unreachable' | 'unasked'
/**
 * yes: prepared, by its command tag. no: it did not and, of this request, never will. silent: it may have, or may
 * yet.
 */
export type AcceptReply =
  { answer: 'yes' } | { answer: 'no'; why: Refusal; error: unknown } | { answer: 'silent'; error: unknown }
export type PromiseReply = Evidence & { readonly yes: boolean; readonly busy?: boolean }

export interface Self {
  readonly cluster: string
  readonly member: number
  readonly members: number
  readonly epoch: number
  readonly schema_version: number
  readonly system_identifier: string
  readonly actual_identifier: string
  readonly prepared_max: number
  readonly write: number
  /** Under construction (`pg-quorum clone`); missing where an older schema is installed. */
  readonly building?: boolean
}
/** Whose write-ahead log was seen flushed how far: 'system identifier/incarnation' → LSN. */
export type Flushed = Readonly<Record<string, string>>
export interface Pulse {
  readonly position: string
  readonly doubt: Doubt[]
  /** Everything's version: how the schema stands. */
  readonly everything?: number
}

/**
 * How long an accept waits for its locks: it must have given up before its owner does, or it prepares what is over
 * (sim seed 1136 of kind dial).
 */
export const acceptLockMs = (callMs: number): number => Math.min(1000, callMs / 2)

/** One connection to one replica; what it holds (guards, A, a liveness lock) ends with it. */
export interface Session {
  readonly replica: Replica
  lock(requests: readonly LockRequest[], waitMs: number | null): Promise<LockReply>
  /** Opens a transaction, waits for A in shared mode and keeps it until letGo(). */
  hold(requests: readonly LockRequest[], patienceMs: number): Promise<Observation>
  letGo(): Promise<void>
  accept(changeset: Changeset, ballot: Ballot): Promise<AcceptReply>
  /** true when the gid is committed here, now or earlier. */
  finish(gid: string, decision: Decision): Promise<boolean>
  liveness(owner: string): Promise<void>
  pulse(): Promise<Pulse>
  /** Gives guards back and the connection with it; broken: the connection is destroyed. */
  release(broken?: boolean): void
}

export interface Sealed {
  readonly state: 'clean' | 'stale' | 'uncovered' | 'sealed'
  readonly gid?: string
  readonly body?: string
  readonly tables?: readonly string[]
  readonly write?: number
  readonly wrote?: Stripes
  /**
   * The session's own word on whether its snapshot sees the latest commits: the isolation level may come from a
   * default that nobody told us.
   */
  readonly fresh?: boolean
  /** Everything's own version, where the base has only the sum of all. */
  readonly everything?: number | null
  readonly via?: string | null
}

/**
 * The connection on which a client's statements run. BEGIN, the statements and COMMIT are the client's own; this is
 * what the protocol adds.
 */
export interface LeadSession {
  replica(): Replica
  /** The transaction's state by the server's last word: 'I' none, 'T' open, 'E' failed. */
  status(): string | null
  destroy(): void
  /** What the open transaction may write. */
  cover(granules: readonly Granule[] | 'infer'): Promise<void>
  /** keep: a seal that brings no base rests on this one. */
  base(requests: readonly LockRequest[], keep?: boolean): Promise<BaseEntry[]>
  /**
   * Section 4, step 5. fresh: this session's snapshot sees the latest commits. 54000 if the rows' images exceed
   * most_bytes. write: W, unless the members have agreed on more.
   */
  seal(
    prefix: string,
    base: readonly BaseEntry[] | undefined,
    inferring: boolean,
    fresh: boolean,
    lock_ms: number,
    most_bytes: number,
    write: number,
  ): Promise<Sealed>
  /**
   * Outside a transaction: which row it is, by what names mean in this session. null: it is not one row of a table
   * that says all about itself.
   */
  row(request: LockRequest): Row | null | Promise<Row | null>
  /**
   * How it stands on this member, and in the same flight, after that, the work; where nothing but this can be in
   * the flight. undefined: it does not say.
   */
  lookAnd?: <T>(row: Row, work: () => Promise<T>) => Promise<{ readonly look: Look | undefined; readonly result: T }>
  /**
   * In a transaction: everything's version at which these tables are plain (group.sql), and each of these rows is
   * named by its table's whole key. undefined: not so.
   */
  byKey(tables: readonly string[], rows: readonly LockRequest[]): number | undefined | Promise<number | undefined>
  /**
   * Everything's version at which what a statement on these tables reads is all in its text (group.sql). undefined:
   * not so, or not known yet.
   */
  closed(tables: readonly string[]): number | undefined
  /** What it has learned about tables is over. */
  forget(): void
  rollback(): Promise<void>
  /** Opens a read-only transaction in one snapshot. */
  beginRead(): Promise<void>
  /** As this session sees them. */
  versions(): Promise<Versions>
  /** What the requests are here, and the versions of the stripes that they cover, as this session sees them. */
  stripes(
    requests: readonly LockRequest[],
  ): Promise<{ readonly granules: readonly Granule[]; readonly stripes: Stripes }>
  /** Ends it; names the tables that it read beyond the granules. */
  endRead(granules: readonly Granule[]): Promise<readonly string[]>
}

/**
 * The policy: what is not among the last `changesets`, or is older than `days`, may go although a member lacks it.
 * {}: nothing may.
 */
export interface Keep {
  readonly changesets?: number
  readonly days?: number
  /** For so long it is known of each transaction that it was committed; not given: for ever. */
  readonly outcomeDays?: number
}
export interface Freed {
  readonly changesets: number
  readonly history: number
  readonly bytes: number
}
/** The changesets that are committed on this member, for pruning. */
export interface Log {
  /** All up to this place in the member's order are beyond the policy; 0: none. */
  limit(keep: Keep): Promise<number>
  /** Oldest first, with their places. */
  entries(after: number, most: number): Promise<[gid: string, place: number][]>
  /** Which of these are committed here, durably? Prepared is not enough. */
  committed(gids: readonly string[]): Promise<string[]>
  /** Deletes the changesets and history of committed transactions, in one transaction. dry: only counts. */
  prune(gids: readonly string[], dry: boolean): Promise<Freed>
  /** Deletes changesets that are a day old and neither committed nor prepared here. */
  pruneAborted(most: number, dry: boolean): Promise<Freed>
  /** Of the next `most` transactions that are committed here, those that are older: oldest first, with their places. */
  outcomes(after: number, days: number, most: number): Promise<[gid: string, place: number][]>
  /** Which of these need not be known here any more, for this member's part? */
  forgettable(gids: readonly string[], days: number): Promise<string[]>
  /** Forgets that these were committed. Only what is forgettable on every member. */
  forget(gids: readonly string[], dry: boolean): Promise<{ readonly outcomes: number; readonly bytes: number }>
}

export interface Replica {
  readonly log: Log
  readonly name: string
  readonly index: number
  open(): Promise<Session>
  hello(): Promise<Self>
  /**
   * How these rows stand here, in their order; one call at a time. Answers of one life came over one connection:
   * the member did not crash between them.
   */
  looks(rows: readonly Row[]): Promise<{ readonly life: number; readonly looks: readonly Look[] }>
  /** Until nothing is in doubt on this row, for so long. */
  settled(row: Row, patience_ms: number): Promise<void>
  evidence(gid: string): Promise<Evidence>
  promise(gid: string, ballot: Ballot, decision: Decision | null): Promise<PromiseReply>
  changesets(gids: readonly string[]): Promise<Changeset[]>
  /** Which of these are committed or prepared here? */
  present(gids: readonly string[]): Promise<string[]>
  versions(): Promise<Versions>
  beyond(versions: Versions, most: number): Promise<string[]>
  /**
   * Applies changesets whose decision is commit, in this order, each as a commit of its own; how many of them were
   * not here yet?
   */
  replay(changesets: readonly Changeset[]): Promise<number>
  /**
   * Tells this member what others were seen to have, and returns that with what it knows and has itself. A member
   * that has less than it had takes no part from here on.
   */
  flushed(seen: Flushed): Promise<Flushed>
  /** How a base stands here: 'same', 'behind', 'ahead'. */
  against(base: readonly BaseEntry[]): Promise<string>
  close(): Promise<void>
}
