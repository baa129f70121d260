/**
 * PostgreSQL's heavyweight locks as far as the protocol uses them: four modes, queues that nobody overtakes, one
 * holder that never conflicts with itself, a timeout for each wait. Advisory locks use RS (shared) and X
 * (exclusive).
 */
import type { Actor, World } from './world.ts'

export type Mode = 'RS' | 'RX' | 'S' | 'X'
/** Table 13.2 of the PostgreSQL manual: ROW SHARE, ROW EXCLUSIVE, SHARE, EXCLUSIVE. */
const CONFLICTS: Record<Mode, readonly Mode[]> = {
  RS: ['X'],
  RX: ['S', 'X'],
  S: ['RX', 'X'],
  X: ['RS', 'RX', 'S', 'X'],
}

export type Verdict = 'granted' | 'timeout' | 'deadlock'
const DEADLOCK_TIMEOUT_MS = 1000

/** Who holds: a backend, or a prepared transaction. */
export interface Holder {
  readonly name: string
}
interface Grant {
  readonly holder: Holder
  readonly mode: Mode
  readonly session: boolean
}
interface Waiter extends Grant {
  readonly wake: (verdict: Verdict) => void
}
interface Lock {
  grants: Grant[]
  waiters: Waiter[]
}

export class LockTable {
  readonly #locks = new Map<string, Lock>()
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  #free(lock: Lock, holder: Holder, mode: Mode, ahead: readonly Waiter[]): boolean {
    const clash = (g: Grant): boolean => g.holder !== holder && CONFLICTS[mode].includes(g.mode)
    if (lock.grants.some(clash)) return false
    return lock.grants.some((g) => g.holder === holder) || !ahead.some(clash)
  }

  try(key: string, holder: Holder, mode: Mode, session: boolean): boolean {
    const lock = this.#locks.get(key) ?? { grants: [], waiters: [] }
    if (!this.#free(lock, holder, mode, lock.waiters)) return false
    this.#locks.set(key, lock)
    lock.grants.push({ holder, mode, session })
    return true
  }

  /** timeout_ms 0: wait for ever, as lock_timeout = 0 does. */
  async take(
    key: string,
    holder: Holder,
    mode: Mode,
    session: boolean,
    timeout_ms: number,
    actor: Actor,
  ): Promise<Verdict> {
    if (this.try(key, holder, mode, session)) return 'granted'
    const lock = this.#locks.get(key)!
    return new Promise((resolve) => {
      const timers: { cancelled: boolean }[] = []
      const waiter: Waiter = {
        holder,
        mode,
        session,
        wake: (verdict) => {
          for (const t of timers) t.cancelled = true
          this.#world.at(0, actor, () => resolve(verdict)) // the backend notices in its own time: it may be paused
        },
      }
      const giveUp = (verdict: Verdict): void => {
        if (!lock.waiters.includes(waiter)) return // granted just now
        lock.waiters.splice(lock.waiters.indexOf(waiter), 1)
        waiter.wake(verdict)
        this.#settle(key, lock)
      }
      lock.waiters.push(waiter)
      if (timeout_ms > 0) timers.push(this.#world.at(timeout_ms, actor, () => giveUp('timeout')))
      timers.push(
        this.#world.at(DEADLOCK_TIMEOUT_MS, actor, () => {
          if (this.#deadlocked(holder)) giveUp('deadlock')
        }),
      )
    })
  }

  /** Ends what this holder has: all of it, or only what belongs to its transaction, or to its session. */
  release(holder: Holder, which: 'all' | 'transaction' | 'session'): void {
    for (const [key, lock] of this.#locks) {
      const grants = lock.grants.filter(
        (g) => g.holder !== holder || (which !== 'all' && g.session !== (which === 'session')),
      )
      const waiters = which === 'all' ? lock.waiters.filter((w) => w.holder !== holder) : lock.waiters
      if (grants.length === lock.grants.length && waiters.length === lock.waiters.length) continue
      lock.grants = grants
      lock.waiters = waiters
      this.#settle(key, lock)
    }
  }

  /** PREPARE TRANSACTION: the transaction's locks go over to it. */
  move(from: Holder, to: Holder): void {
    for (const lock of this.#locks.values())
      lock.grants = lock.grants.map((g) => (g.holder === from && !g.session ? { ...g, holder: to } : g))
  }

  held(key: string): Holder | undefined {
    return this.#locks.get(key)?.grants[0]?.holder
  }

  /** Does this holder wait, in the end, for itself? */
  #deadlocked(start: Holder): boolean {
    const seen = new Set<Holder>()
    const visit = (holder: Holder): boolean => {
      for (const lock of this.#locks.values()) {
        const i = lock.waiters.findIndex((w) => w.holder === holder)
        if (i === -1) continue
        for (const other of [...lock.grants, ...lock.waiters.slice(0, i)]) {
          if (other.holder === holder || !CONFLICTS[lock.waiters[i]!.mode].includes(other.mode)) continue
          if (other.holder === start) return true
          if (!seen.has(other.holder)) {
            seen.add(other.holder)
            if (visit(other.holder)) return true
          }
        }
      }
      return false
    }
    return visit(start)
  }

  #settle(key: string, lock: Lock): void {
    for (let i = 0; i < lock.waiters.length;) {
      const w = lock.waiters[i]!
      if (!this.#free(lock, w.holder, w.mode, lock.waiters.slice(0, i))) {
        i++
        continue
      }
      lock.waiters.splice(i, 1)
      lock.grants.push({ holder: w.holder, mode: w.mode, session: w.session })
      w.wake('granted')
    }
    if (lock.grants.length === 0 && lock.waiters.length === 0) this.#locks.delete(key)
  }
}
