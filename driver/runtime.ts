/**
 * The only source of time, chance and identity; everything else asks here, so that a simulator can stand in for
 * them (`replaceHost`). Nothing of the promise depends on the clock: it only decides who is asked, and when we look
 * again. `step` marks the named places in a transaction's life where a test may stop, kill or pause its owner.
 */
import { randomBytes, randomInt } from 'node:crypto'
import pTimeout from 'p-timeout'

export interface Host {
  newId(): string
  /** A whole number from 0 to below `limit`. */
  chance(limit: number): number
  /** Monotonic. */
  now_ms(): number
  after(ms: number, fn: () => void): unknown
  cancel(timer: unknown): void
}

const real: Host = {
  newId: () => randomBytes(6).toString('hex'),
  chance: (limit) => randomInt(limit),
  now_ms: () => performance.now(),
  after: (ms, fn) => setTimeout(fn, ms),
  cancel: (timer) => clearTimeout(timer as NodeJS.Timeout),
}
let host = real

/** Simulator only: another clock and other dice. Without an argument, the real ones again. */
export function replaceHost(other: Host = real): void {
  host = other
}

export const newId = (): string => host.newId()
export const chance = (limit: number): number => host.chance(limit)
export const now_ms = (): number => host.now_ms()
/**
 * The time of day of this machine, in ms since 1970: only for showing it, and for comparing the servers' clocks
 * with it.
 */
export const wall_ms = (): number => Date.now()
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => void host.after(ms, resolve))
/** After whatever is ready to run has run. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
/** Calls it later; the answer cancels that. */
export const after = (ms: number, fn: () => void): (() => void) => {
  const timer = host.after(ms, fn)
  return () => host.cancel(timer)
}
let moments = 0
/** A number that only rises, by which this process knows what came after what. Not a clock. */
export const moment = (): number => ++moments
/** Half to one and a half times as long. */
export const jitter = (ms: number): number => ms * (0.5 + chance(1024) / 1024)

const timers = {
  setTimeout: (fn: () => void, ms: number) => host.after(ms, fn),
  clearTimeout: (timer: unknown) => host.cancel(timer),
} as unknown as { setTimeout: typeof setTimeout; clearTimeout: typeof clearTimeout }

/** Rejects with p-timeout's TimeoutError, or takes the fallback; the work itself goes on and needs an owner. */
export function within<T, F = never>(ms: number, work: Promise<T>, fallback?: () => F): Promise<T | F> {
  // It makes its error beforehand: where the stack goes through many awaits, a trace for each call was 3 % of what
  // a transaction costs the client.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return pTimeout<T, F>(work, { milliseconds: ms, customTimers: timers, ...(fallback ? { fallback } : {}) })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** The owner's, and a resolver's. */
export const STEPS = [
  'locked',
  'began',
  'worked',
  'sealed',
  'accept-sent',
  'accepted',
  'lead-committing',
  'lead-committed',
  'told',
  'resolving',
  'promised',
  'decided',
] as const
export type Step = (typeof STEPS)[number]
let watcher: ((step: Step, gid: string) => void | Promise<void>) | undefined

/** Tests only: called at every step; a promise that it returns is awaited. */
export function onStep(fn: typeof watcher): void {
  watcher = fn
}
export async function step(name: Step, gid = ''): Promise<void> {
  if (watcher) await watcher(name, gid)
}
