/**
 * Virtual time. One queue of events in order of (time, number); each event belongs to an actor, a process that can
 * die or stand still. Between two events every promise that can go on has gone on (setImmediate runs after all
 * microtasks), so whatever code runs after an event runs on behalf of that event's actor: the driver's own timers
 * and dice find their process that way.
 */
import { replaceHost, type Host } from '../../driver/runtime.ts'
import { dice, type Dice } from './dice.ts'

export class Actor {
  readonly name: string
  readonly parent: Actor | undefined
  #dead = false
  /** Nothing of it runs until it is resumed (SIGSTOP, a blocked event loop); what would have run waits here. */
  held: Event[] | undefined
  /** How far its clock is off. */
  clock_ms = 0

  constructor(name: string, parent?: Actor) {
    this.name = name
    this.parent = parent
  }
  get alive(): boolean {
    return !this.#dead && (this.parent?.alive ?? true)
  }
  get standing(): Event[] | undefined {
    return this.held ?? this.parent?.standing
  }
  die(): void {
    this.#dead = true
  }
}

interface Event {
  at: number
  readonly order: number
  readonly actor: Actor
  readonly run: () => void
  cancelled: boolean
}

/**
 * What goes wrong all the time: messages that come late or never, replies that nobody hears, servers that die after
 * a reply, processes that stand still for a while.
 */
export interface Weather {
  readonly late: number
  readonly late_ms: readonly [number, number]
  readonly stall: number
  readonly stall_ms: readonly [number, number]
  readonly lost: number
  readonly unheard: number
  readonly crash: number
}
export const CALM: Weather = {
  late: 0.02,
  late_ms: [5, 300],
  stall: 0.002,
  stall_ms: [10, 4000],
  lost: 0,
  unheard: 0,
  crash: 0,
}
export const CLEAR: Weather = { ...CALM, late: 0, stall: 0 }

export class World {
  readonly seed: number
  now = 0
  actor: Actor
  readonly nobody = new Actor('world')
  readonly #heap: Event[] = []
  readonly #dice = new Map<string, Dice>()
  #order = 0
  #hash = 0xcbf29ce4
  events = 0
  weather = CALM
  /** Called after every event. */
  afterEvent: () => void = () => undefined
  /** Set for a replay that should be read. */
  log: ((line: string) => void) | undefined

  constructor(seed: number) {
    this.seed = seed
    this.actor = this.nobody
  }

  dice(purpose: string): Dice {
    let d = this.#dice.get(purpose)
    if (!d) this.#dice.set(purpose, (d = dice(this.seed, purpose)))
    return d
  }

  at(delay_ms: number, actor: Actor, run: () => void): Event {
    const event = { at: this.now + Math.max(0, delay_ms), order: this.#order++, actor, run, cancelled: false }
    this.#push(event)
    return event
  }

  pause(actor: Actor, ms: number): void {
    if (actor.held) return
    const held: Event[] = (actor.held = [])
    if (ms < Infinity)
      this.at(ms, this.nobody, () => {
        if (actor.held === held) this.resume(actor)
      })
  }

  resume(actor: Actor): void {
    const held = actor.held ?? []
    actor.held = undefined
    for (const event of held) {
      event.at = this.now
      this.#push(event) // keeps its number: what stood still goes on in its order
    }
  }

  sleep(ms: number, actor = this.actor): Promise<void> {
    return new Promise((resolve) => this.at(ms, actor, resolve))
  }

  /** What happened, in words: part of the hash, so that two runs of a seed that differ anywhere differ here. */
  trace(what: string, detail?: () => string): void {
    let h = this.#hash
    for (let i = 0; i < what.length; i++) h = Math.imul(h ^ what.charCodeAt(i), 0x01000193)
    this.#hash = Math.imul(h ^ Math.floor(this.now * 1000), 0x01000193)
    this.log?.(`${this.now.toFixed(2).padStart(10)}  ${what} ${detail?.() ?? ''}`)
  }
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0')
  }

  /** Until the condition holds (checked after every event) or the time is over; false then. */
  async run(until: () => boolean, end_ms: number): Promise<boolean> {
    while (!until()) {
      const event = this.#pop()
      if (!event || event.at > end_ms) {
        if (event) this.#push(event)
        if (end_ms < Infinity) this.now = Math.max(this.now, end_ms)
        return false
      }
      if (event.cancelled || !event.actor.alive) continue
      this.now = Math.max(this.now, event.at)
      const held = event.actor.standing
      if (held) {
        held.push(event)
        continue
      }
      this.actor = event.actor
      this.events++
      event.run()
      await new Promise(setImmediate)
      this.actor = this.nobody
      this.afterEvent()
    }
    return true
  }

  host(): Host {
    return {
      newId: () =>
        Math.floor(this.dice(`id ${this.actor.name}`).next() * 2 ** 48)
          .toString(16)
          .padStart(12, '0'),
      chance: (limit) => this.dice(`chance ${this.actor.name}`).below(limit),
      now_ms: () => this.now + this.actor.clock_ms,
      after: (ms, fn) => this.at(ms, this.actor, fn),
      cancel: (timer) => void ((timer as Event).cancelled = true),
    }
  }
  install(): void {
    replaceHost(this.host())
  }

  #push(event: Event): void {
    const heap = this.#heap
    let i = heap.push(event) - 1
    while (i > 0) {
      const up = (i - 1) >> 1
      if (before(heap[up]!, event)) break
      heap[i] = heap[up]!
      i = up
    }
    heap[i] = event
  }

  #pop(): Event | undefined {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (!top || !last || heap.length === 0) return top
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (before(last, heap[child]!)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
    return top
  }
}

const before = (a: Event, b: Event): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)
