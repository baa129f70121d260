/**
 * The only source of time, chance and identity; everything else asks here, so that a simulator can stand in for them.
 * Nothing of the promise depends on the clock: it only decides who is asked, and when we look again.
 * `step` marks the named places in a transaction's life where a test may stop, kill or pause its owner.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'

export const newId = (): string => randomBytes(6).toString('hex')
/** A whole number from 0 to below `limit`. */
export const chance = (limit: number): number => randomInt(limit)
export const now_ms = (): number => performance.now()
export const sleep = (ms: number): Promise<void> => delay(ms)
export const jitter = (ms: number): number => ms * (0.5 + Math.random())

export type Step = 'locked' | 'began' | 'worked' | 'sealed' | 'accept-sent' | 'accepted' | 'lead-committing' | 'lead-committed' | 'told' | 'resolving' | 'promised' | 'decided'
let watcher: ((step: Step, gid: string) => void | Promise<void>) | undefined

/** Tests only: called at every step; a promise that it returns is awaited. */
export function onStep(fn: typeof watcher): void {
  watcher = fn
}
export async function step(name: Step, gid = ''): Promise<void> {
  if (watcher) await watcher(name, gid)
}
