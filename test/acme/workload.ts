/**
 * One worker: list-append transactions and bank transfers through a Pool, one after another, everything journalled.
 * Each attempt of a transaction that the pool repeats is an operation of its own with values of its own: the pool
 * repeats only what certainly did not happen, and the final rows show whether that was true.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { QuorumError, type Lock, type Pool } from '../../driver/index.ts'
import type { Mop } from '../checker/history.ts'
import type { Chance } from './chance.ts'
import { now_ms, type Journal, type Move } from './journal.ts'
import { ACTIVE, lockRows, perform, UPSERT, WINDOW_MS, type Runner } from './lists.ts'

export const ACCOUNTS = 10
export const BALANCE = 100
const SLOW_MS = 25_000

interface Entry {
  readonly id: number
  readonly mops: readonly Mop[]
  readonly move?: Move
}
export interface Shared {
  readonly pool: Pool
  readonly journal: Journal
  readonly chance: Chance
  readonly began: number
  readonly lie: string | undefined
  nextId(): number
  stopping(): boolean
}

export class Worker {
  readonly #it: Shared
  readonly #name: string
  #generation = 0
  busy: { how: string; since: number } | undefined

  constructor(it: Shared, name: string) {
    this.#it = it
    this.#name = name
  }

  /** After an open outcome it is somebody else, as in Jepsen: the open operation may still be running. */
  get #process(): string {
    return `${this.#name}.${this.#generation}`
  }

  async run(): Promise<void> {
    while (!this.#it.stopping()) {
      const start = now_ms()
      const how = this.#choose()
      this.busy = { how, since: start }
      const went = await this.#one(how)
      this.busy = undefined
      if (now_ms() - start > SLOW_MS) this.#it.journal.write({ e: 'slow', t: now_ms(), ms: now_ms() - start, how })
      if (!went) await sleep(30 + this.#it.chance.below(60))
    }
  }

  #choose(): string {
    if (this.#it.lie !== undefined) return 'lie'
    const deck: [string, number][] = [
      ['locks', 22],
      ['infer', 12],
      ['begin', 14],
      ['begin-locks', 6],
      ['shot-append', 12],
      ['shot-read', 10],
      ['shot-pair', 3],
      ['burst', 8],
      ['read-only', 5],
      ['transfer', 14],
      ['transfer-infer', 4],
      ['total', 5],
      ['total-locks', 2],
    ]
    let at = this.#it.chance.below(deck.reduce((sum, [, w]) => sum + w, 0))
    return deck.find(([, w]) => (at -= w) < 0)?.[0] ?? 'locks'
  }

  #key(): string {
    return `k${Math.floor((now_ms() - this.#it.began) / WINDOW_MS) + this.#it.chance.below(ACTIVE)}`
  }

  #plan(reads: boolean, writes: boolean): { kind: 'append' | 'r'; key: string }[] {
    const { chance } = this.#it
    return Array.from({ length: 1 + chance.below(4) }, () => ({
      kind: writes && (!reads || chance.odds(0.55)) ? 'append' : 'r',
      key: this.#key(),
    }))
  }

  /** True: it went through. */
  async #one(how: string): Promise<boolean> {
    const { pool } = this.#it
    switch (how) {
      case 'locks':
      case 'infer': {
        const plan = this.#plan(true, true)
        return this.#transaction(
          how,
          how === 'locks' ? lockRows(plan) : [],
          () => ({ mops: this.#fresh(plan) }),
          (tx, e) => perform(tx, e.mops),
        )
      }
      case 'read-only': {
        const plan = this.#plan(true, false)
        const locks = this.#it.chance.odds(0.5) ? lockRows(plan) : []
        return this.#transaction(
          how,
          locks,
          () => ({ mops: this.#fresh(plan) }),
          (tx, e) => perform(tx, e.mops),
        )
      }
      case 'begin':
      case 'begin-locks':
        return this.#plain(how)
      case 'shot-append': {
        const key = this.#key()
        return this.#shot(how, [['append', key, this.#it.nextId()]], (e) => perform(pool, e.mops))
      }
      case 'shot-read':
        return this.#shot(how, [['r', this.#key(), null]], (e) => perform(pool, e.mops))
      case 'shot-pair': {
        const [a, b] = [this.#key(), this.#key()]
        if (a === b) return true
        return this.#shot(
          how,
          [
            ['r', a, null],
            ['r', b, null],
          ],
          async () => {
            const { rows } = await pool.query<{ k: string; v: number[] }>(
              'SELECT k, v FROM lists WHERE k IN ($1, $2)',
              [a, b],
            )
            return [a, b].map((k): Mop => ['r', k, rows.find((r) => r.k === k)?.v ?? []])
          },
        )
      }
      case 'burst': {
        // as from the callers of one process, at once: the pool makes groups of them
        const each = Array.from({ length: 2 + this.#it.chance.below(9) }, (_, i) =>
          this.#shot(
            how,
            [['append', this.#key(), this.#it.nextId()]],
            (e) => perform(pool, e.mops),
            `${this.#process}/${i}`,
          ),
        )
        return (await Promise.all(each)).includes(true)
      }
      case 'lie':
        return this.#lie()
      case 'transfer':
      case 'transfer-infer':
        return this.#transfer(how)
      default:
        return this.#total(how)
    }
  }

  #fresh(plan: readonly { kind: 'append' | 'r'; key: string }[]): Mop[] {
    return plan.map(({ kind, key }): Mop => (kind === 'append' ? ['append', key, this.#it.nextId()] : ['r', key, null]))
  }

  #invoke(how: string, start: number, entry: { mops: readonly Mop[]; move?: Move }, process = this.#process): Entry {
    const id = this.#it.nextId()
    this.#it.journal.write({
      e: 'invoke',
      id,
      p: process,
      t: start,
      how,
      m: entry.mops,
      ...(entry.move ? { move: entry.move } : {}),
    })
    return { id, ...entry }
  }

  async #transaction(
    how: string,
    locks: readonly Lock[],
    make: () => { mops: readonly Mop[]; move?: Move },
    work: (tx: Runner, entry: Entry) => Promise<readonly Mop[]>,
  ): Promise<boolean> {
    const { pool, journal } = this.#it
    let entry: Entry | undefined
    let start = now_ms()
    let done: readonly Mop[] = []
    try {
      await pool.transaction({ locks }, async (tx) => {
        if (entry) journal.write({ e: 'end', id: entry.id, t: now_ms(), y: 'fail', code: 'repeated' })
        entry = this.#invoke(how, start, make())
        try {
          done = await work(tx, entry)
        } finally {
          start = now_ms()
        }
      })
      if (entry) journal.write({ e: 'end', id: entry.id, t: now_ms(), y: 'ok', m: done })
      return true
    } catch (error) {
      return this.#failed(entry, error)
    }
  }

  /** As an application without our transaction(): BEGIN … COMMIT in strings. */
  async #plain(how: string): Promise<boolean> {
    const plan = this.#plan(true, true)
    const start = now_ms()
    let entry: Entry | undefined
    let client: pg.PoolClient | undefined
    try {
      client = how === 'begin' ? await this.#it.pool.connect() : await this.#it.pool.connect({ locks: lockRows(plan) })
      await client.query('BEGIN')
      entry = this.#invoke(how, start, { mops: this.#fresh(plan) })
      const done = await perform(client, entry.mops)
      const { command } = await client.query('COMMIT')
      if (command !== 'COMMIT') throw new Error(`COMMIT was answered with ${command}`)
      this.#it.journal.write({ e: 'end', id: entry.id, t: now_ms(), y: 'ok', m: done })
      client.release()
      return true
    } catch (error) {
      await client?.query('ROLLBACK').catch(() => undefined)
      client?.release(true)
      return this.#failed(entry, error)
    }
  }

  async #shot(
    how: string,
    mops: readonly Mop[],
    work: (entry: Entry) => Promise<readonly Mop[]>,
    process?: string,
  ): Promise<boolean> {
    const entry = this.#invoke(how, now_ms(), { mops }, process)
    try {
      const done = await work(entry)
      this.#it.journal.write({ e: 'end', id: entry.id, t: now_ms(), y: 'ok', m: done })
      return true
    } catch (error) {
      return this.#failed(entry, error)
    }
  }

  /** Sabotage: one server asked by itself, and its answer sold as the database's. */
  async #lie(): Promise<boolean> {
    const client = new pg.Client(this.#it.lie)
    client.on('error', () => undefined)
    try {
      await client.connect()
      await this.#shot('lie', [['r', this.#key(), null]], (e) => perform(client, e.mops))
      return false // and a pause: it has no work to do
    } catch {
      return false
    } finally {
      await client.end().catch(() => undefined)
    }
  }

  async #transfer(how: string): Promise<boolean> {
    const { chance, nextId, began } = this.#it
    const from = 1 + chance.below(ACCOUNTS)
    const to = 1 + ((from + chance.below(ACCOUNTS - 1)) % ACCOUNTS)
    const amount = 1 + chance.below(20)
    const key = `b${from}w${Math.floor((now_ms() - began) / (4 * WINDOW_MS))}`
    const locks = how === 'transfer' ? [`accounts/${from}`, `accounts/${to}`, `lists/${key}`] : []
    return this.#transaction(
      how,
      locks,
      () => ({ mops: [['append', key, nextId()]], move: { from, to, amount } }),
      async (tx, e) => {
        await tx.query('UPDATE accounts SET balance = balance - $1::int WHERE id = $2', [amount, from])
        await tx.query('UPDATE accounts SET balance = balance + $1::int WHERE id = $2', [amount, to])
        for (const m of e.mops) if (m[0] === 'append') await tx.query(UPSERT, [m[1], m[2]])
        return e.mops
      },
    )
  }

  async #total(how: string): Promise<boolean> {
    const { pool, journal } = this.#it
    const start = now_ms()
    const ask = async (on: Runner): Promise<number> =>
      Number((await on.query('SELECT sum(balance) AS total FROM accounts')).rows[0]?.total)
    try {
      const total =
        how === 'total'
          ? await ask(pool)
          : await pool.transaction({ locks: [{ table: 'accounts', mode: 'shared' }] }, ask)
      journal.write({ e: 'total', p: this.#process, t: start, end: now_ms(), total, how })
      return true
    } catch (error) {
      return this.#failed(undefined, error)
    }
  }

  async #failed(entry: Entry | undefined, error: unknown): Promise<boolean> {
    const { journal } = this.#it
    const { code = '', message = '' } = error as { code?: string; message?: string }
    const text = message.slice(0, 300)
    // PostgreSQL's own word about a statement is a no. Anything else that is not ours says nothing, and should not
    // exist.
    const untyped =
      !(error instanceof QuorumError) && !(error instanceof pg.DatabaseError && error.severity === 'ERROR')
    if (!entry) {
      journal.write({ e: 'error', t: now_ms(), code, text, untyped })
      return false
    }
    const open = untyped || (error instanceof QuorumError && error.outcome !== 'not-committed')
    const gid = error instanceof QuorumError ? error.gid : undefined
    journal.write({
      e: 'end',
      id: entry.id,
      t: now_ms(),
      y: open ? 'info' : 'fail',
      code,
      text,
      untyped,
      ...(gid ? { gid } : {}),
    })
    if (open) this.#generation++
    if (open && gid) await this.#ask(entry.id, gid)
    return false
  }

  /** An application that wants to know. Sometimes it does not ask: then only the database's own healing decides. */
  async #ask(id: number, gid: string): Promise<void> {
    const { pool, journal, chance, stopping } = this.#it
    if (chance.odds(0.1)) return
    for (let i = 0; i < 8 && !stopping(); i++) {
      const says = await pool.outcomeOf(gid).catch((e: unknown) => `error: ${String(e)}`)
      journal.write({ e: 'asked', id, t: now_ms(), gid, says })
      if (says !== 'unknown' && chance.odds(0.7)) return // else once more: the answer must not change
      await sleep(200)
    }
  }
}
