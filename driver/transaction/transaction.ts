/**
 * The story of one transaction, readable aloud: assemble and lock, choose the lead, work, seal, accept, decide, commit
 * (docs/protocol.md, section 4). Doing lives in the leaves (locks, commit, read); branches live here.
 */
import type { QueryResult } from 'pg'
import { conflict, type QuorumError } from '../errors.ts'
import { baseOf, versionsAfter } from '../protocol/changeset.ts'
import { mergeBase, type BaseEntry, type LockRequest } from '../protocol/locks.ts'
import { isServersWord } from '../replica/sqlstate.ts'
import type { Changeset, LeadSession, Sealed } from '../replica/replica.ts'
import { jitter, sleep, step, within } from '../runtime.ts'
import type { Cluster } from './cluster.ts'
import { assemble } from './assemble.ts'
import { commit } from './commit.ts'
import type { Guard } from './locks.ts'
import { validate } from './read.ts'
import { seal } from './seal.ts'

export interface Begin {
  readOnly?: boolean
  isolation?: string
  implicit?: boolean
}

export class Transaction {
  readonly #cluster: Cluster
  readonly #lead: LeadSession
  readonly #begin: Begin
  #declared: readonly LockRequest[]
  #guard: Guard | undefined
  #base: BaseEntry[] = []
  #touched: LockRequest[] = []
  #worked = false
  #write: number | undefined
  #everything = false
  #plainAt: number | undefined
  #told: boolean | undefined
  #undoable = false
  /** Tables that the server saw read and the text did not name: to be declared at the next attempt. */
  missed: LockRequest[] = []

  constructor(cluster: Cluster, lead: LeadSession, declared: readonly LockRequest[], begin: Begin = {}) {
    this.#cluster = cluster
    this.#lead = lead
    this.#declared = declared
    this.#begin = begin
  }

  /** An implicit transaction's locks are guards only: its statement is its declaration. */
  get #inferring(): boolean {
    return this.#declared.length === 0 || this.#begin.implicit === true
  }

  get #seesLatest(): boolean {
    return ['read committed', 'read uncommitted'].includes(this.#begin.isolation ?? 'read committed')
  }

  /** Everything's version at which tables were plain that it takes for plain. */
  get plainAt(): number {
    return this.#plainAt ?? NaN
  }

  /** The same again, for COMMIT AND CHAIN. */
  next(): Transaction {
    return new Transaction(this.#cluster, this.#lead, this.#declared, this.#begin)
  }

  /** Before BEGIN: guards on a majority, and a lead that has everything which they cover. */
  async prepare(): Promise<void> {
    if (this.#declared.length > 0) await this.#lock(this.#declared)
  }

  async #lock(requests: readonly LockRequest[]): Promise<void> {
    ;({ guard: this.#guard, base: this.#base } = await assemble(this.#cluster, this.#lead, requests))
  }

  /** After BEGIN, before the first statement. */
  async began(): Promise<void> {
    await this.covered()
    await step('began')
  }

  /** The triggers learn what this transaction may write; again where ROLLBACK TO or RESET ALL may have undone that. */
  covered(): Promise<void> {
    return this.#lead.cover(this.#inferring || this.#everything ? 'infer' : (this.#guard?.granules ?? []))
  }

  /**
   * LOCK TABLE right after BEGIN. Later on it is what PostgreSQL makes of it, and one more thing that the commit
   * rests on.
   */
  async declare(requests: readonly LockRequest[]): Promise<void> {
    // Above READ COMMITTED the snapshot is taken already: guards would vouch for versions that it does not show.
    if (this.#worked || this.#guard || !this.#seesLatest) return this.touch(requests)
    this.#declared = requests
    await this.#lock(requests)
    await this.began()
  }

  /** W of this transaction, instead of the driver's. */
  mustReach(write: number): void {
    this.#write = write
  }

  /** DDL rests on everything, whatever was declared. */
  async declareEverything(): Promise<void> {
    this.#worked = true
    if (this.#declared.some((r) => r.t === '*' && r.w)) return
    await this.#touch([{ t: '*', w: true }])
    this.#everything = true
    await this.covered()
  }

  /** What an earlier attempt was seen to read beyond its text. */
  also(requests: readonly LockRequest[]): void {
    this.missed = [...requests]
  }

  /**
   * Before an undeclared statement: what it rests on, read in an earlier snapshot than its own. A declared
   * transaction answers for its own reads.
   */
  async touch(requests: readonly LockRequest[]): Promise<void> {
    this.#worked = true
    if (this.#inferring) await this.#touch([...requests, ...this.missed.splice(0)])
  }

  /**
   * A statement that changes one row of a plain table, named by its whole key, needs no touch before it: it holds
   * the row, so what it saw is what the seal finds, and what it did is captured. false: not here (ROLLBACK TO would
   * take the captured row away and leave what the caller has seen of it). true: the commit rests on these tables'
   * being plain, whatever the statement did.
   */
  async byKey(tables: readonly string[], rows: readonly LockRequest[]): Promise<boolean> {
    if (this.#declared.length > 0 || this.#everything || this.#undoable || this.missed.length > 0) return false
    const everything = await this.#lead.byKey(tables, rows)
    if (everything === undefined) return false
    this.#plainAt = Math.min(everything, this.#plainAt ?? everything)
    return true
  }

  /**
   * Before each statement: everything's version at which all that it reads is in its text, if it is so. If it is so
   * for all, the seal need not look for what was read beyond it.
   */
  told(closed: number | undefined): void {
    this.#told = this.#told !== false && closed !== undefined
    if (closed !== undefined) this.#plainAt = Math.min(closed, this.#plainAt ?? closed)
  }

  /** Statements by key have changed these. */
  changed(rows: readonly LockRequest[]): void {
    this.#worked = true
    this.#touched.push(...rows)
  }

  /** A savepoint stands from now on. */
  savepoint(): void {
    this.#undoable = true
  }

  /**
   * The statements and the seal as one flight; before them the only touch, unless they are by key. Whether it is
   * sealed is asked at commit().
   */
  inOneFlight(
    requests: readonly LockRequest[],
    statements: readonly (() => Promise<unknown>)[],
    byKey = false,
  ): readonly (() => Promise<unknown>)[] {
    this.#worked = true
    if (byKey) this.changed(requests)
    const base = (): Promise<void> => this.#touch([...requests, ...this.missed.splice(0)], true)
    return [...(byKey ? [] : [base]), ...statements, () => (this.#sealing = this.#seal(!byKey))]
  }
  #sealing: Promise<Sealed> | undefined

  async #touch(requests: readonly LockRequest[], keep = false): Promise<void> {
    if (requests.length === 0 && !keep) return
    this.#base = mergeBase(this.#base, await this.#lead.base(requests, keep))
    this.#touched.push(...requests)
  }

  /** Seal, accept, decide, commit. `plain` is the lead's own COMMIT. */
  async commit(plain: () => Promise<unknown>): Promise<unknown> {
    try {
      // failed: PostgreSQL answers ROLLBACK, as pg's users know it
      if (this.#lead.status() !== 'T' && !this.#sealing) return await plain()
      await step('worked')
      const { seen } = this.#cluster
      // After a seal, as in a flight, this would count what is not committed: there its base tells what it has seen.
      if (seen && !this.#sealing)
        seen.learn((await this.#lead.stripes(this.#inferring ? this.#touched : this.#declared)).stripes)
      const sealed = await (this.#sealing ?? this.#seal())
      if (sealed.state === 'stale')
        throw await this.#abandoned('what this transaction read was changed by another before it ended')
      if (sealed.state === 'uncovered') {
        this.missed = (sealed.tables ?? []).map((t) => ({ t, w: false }))
        throw await this.#abandoned(
          `the transaction read tables that its text does not name (${sealed.tables?.join(', ')}), ` +
            'so they were not watched; declare them',
        )
      }
      if (sealed.state === 'clean') {
        await validate(
          this.#cluster,
          this.#lead.replica(),
          this.#inferring ? this.#touched : this.#declared,
          this.#base,
        )
        seen?.learn(versionsAfter(this.#base, false))
        return await plain()
      }
      const result = await this.#commitSealed(
        { gid: sealed.gid ?? '', body: sealed.body ?? '', via: sealed.via ?? undefined },
        sealed.write ?? this.#cluster.needed,
        plain,
      )
      seen?.learn([...(sealed.wrote ?? []), ...versionsAfter(baseOf(sealed.body ?? ''), true)])
      this.drop()
      if (this.#cluster.brake.ms > 0) await sleep(jitter(this.#cluster.brake.ms))
      return result
    } finally {
      this.drop()
    }
  }

  /** kept: what it rests on has been left on the lead. */
  #seal(kept = false): Promise<Sealed> {
    return seal(this.#cluster, this.#lead, {
      base: () => this.#base,
      kept,
      inferring: this.#inferring,
      told: this.#told === true,
      latest: this.#seesLatest,
      plainAt: this.#plainAt,
      write: this.#write ?? this.#cluster.dial.write,
    })
  }

  async #abandoned(why: string): Promise<QuorumError> {
    await this.#rollback()
    return conflict(`not committed: ${why}`)
  }

  async #rollback(): Promise<void> {
    try {
      await this.#lead.rollback()
    } catch {
      this.#lead.destroy()
    }
  }

  async #commitSealed(changeset: Changeset, write: number, plain: () => Promise<unknown>): Promise<unknown> {
    await step('sealed', changeset.gid)
    const lead = this.#lead.replica()
    let result: unknown
    let ended = false
    await commit(
      this.#cluster,
      {
        replica: lead,
        commit: async () => {
          try {
            // A flow can die without a word while pulses go on: without a deadline the owner would wait for ever,
            // with its guards held.
            const reply = await within(this.#cluster.limits.call_ms, plain())
            ended = true
            const { command } = reply as QueryResult
            if (command !== 'COMMIT')
              return { answer: 'no', error: new Error(`${lead.name} answered COMMIT with ${command}`) }
            result = reply // another is not the transaction's: the others may yet decide that it is committed
            return { answer: 'yes' }
          } catch (error) {
            ended = true
            return { answer: isServersWord(error) ? 'no' : 'silent', error }
          }
        },
        abandon: async () => {
          if (!ended) await this.#rollback()
          else if (this.#lead.status() !== 'I') this.#lead.destroy()
        },
      },
      changeset,
      write,
      async (replica) => this.#guard?.give(replica) ?? replica.open(),
    )
    return result ?? { command: 'COMMIT', rowCount: null, oid: null, rows: [], fields: [] }
  }

  drop(): void {
    this.#guard?.release()
    this.#guard = undefined
  }
}
