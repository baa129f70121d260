/**
 * The plan of a run's faults, from its seed, and its execution. Every shape comes once before any comes twice; some
 * overlap. At two thirds a minority is destroyed in the same instant, disk and all; what follows has to live with
 * the rest.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import { FAULTS, lostPrepareReplies, type Kind } from './faults.ts'
import { now_ms } from './journal.ts'
import type { World } from './world.ts'

export interface Happened {
  readonly kind: Kind
  readonly what: string
  readonly from: number
  to: number
}
interface Planned {
  readonly kind: Kind
  readonly at_ms: number
  readonly for_ms: number
}
type Shape = keyof typeof FAULTS

const FIRST_MS = 2000
/**
 * These leave commits undecided; the driver says so only after 5 s without a majority. Half of the time they last
 * that long.
 */
const LONG: readonly Shape[] = ['deaf client', 'no majority', 'freeze client']
/**
 * Once a minority is destroyed, most of the other shapes leave no majority at all. A few such moments are wanted,
 * the rest should go on.
 */
const WITH_THE_REST: Shape[] = [
  'kill client',
  'freeze client',
  'reset',
  'COMMIT reply lost',
  'slow server',
  'torn message',
  'kill server',
  'freeze server',
  'deaf client',
  'one way',
]

export function plan(
  seconds: number,
  chance: Chance,
  only?: readonly Shape[],
): { faults: Planned[]; destroy_ms: number; lose_ms: number } {
  const destroy_ms = seconds * 667
  const faults: Planned[] = []
  const shapes = only ?? (Object.keys(FAULTS) as Shape[])
  // As dense as it takes for every shape to come before the destruction, within reason.
  const gap = Math.min(3000, Math.max(1500, (destroy_ms - FIRST_MS) / (shapes.length + 1)))
  let deck: Shape[] = []
  for (let at = FIRST_MS; shapes.length > 0 && at < destroy_ms - 500; at += gap * chance.between(0.8, 1.2)) {
    if (deck.length === 0) deck = chance.shuffle(shapes)
    const kind = deck.pop() ?? 'reset'
    faults.push({
      kind,
      at_ms: at,
      for_ms: LONG.includes(kind) && chance.odds(0.5) ? chance.between(5500, 8500) : gap * chance.between(0.6, 1.6),
    })
  }
  deck = []
  const rest = only ? WITH_THE_REST.filter((s) => only.includes(s)) : WITH_THE_REST
  for (let at = destroy_ms + 5000; at < seconds * 1000 - 2500 && rest.length > 0; at += chance.between(2000, 3500)) {
    if (deck.length === 0) deck = chance.shuffle(rest)
    faults.push({ kind: deck.pop() ?? 'reset', at_ms: at, for_ms: chance.between(1000, 2500) })
  }
  return { faults, destroy_ms, lose_ms: seconds * 250 }
}

export class Nemesis {
  readonly happened: Happened[] = []
  readonly victims: readonly number[]
  readonly #world: World
  readonly #chance: Chance
  readonly #say: (line: string) => void
  readonly #running = new Set<Promise<void>>()

  constructor(world: World, chance: Chance, say: (line: string) => void) {
    this.#world = world
    this.#chance = chance
    this.#say = say
    this.victims = chance.shuffle(world.living).slice(0, world.servers.length - world.majority)
  }

  /** `faults` false: only time passes. */
  async run(seconds: number, only?: readonly Shape[], faults = true): Promise<void> {
    const { faults: planned, destroy_ms, lose_ms } = plan(seconds, this.#chance, only)
    const began = now_ms()
    const until = (ms: number): Promise<void> => sleep(Math.max(0, began + ms - now_ms()))
    const moments = !faults
      ? []
      : [
          ...planned.map((f) => ({ at_ms: f.at_ms, act: () => this.#inflict(f) })),
          { at_ms: lose_ms, act: () => this.#loseReplies() },
          { at_ms: destroy_ms, act: () => this.#destroy() },
        ].sort((a, b) => a.at_ms - b.at_ms)
    for (const { at_ms, act } of moments) {
      await until(at_ms)
      const work: Promise<void> = act()
        .catch((error: unknown) => void this.#world.failures.push(`the nemesis failed: ${String(error)}`))
        .finally(() => this.#running.delete(work))
      this.#running.add(work)
    }
    await until(seconds * 1000)
    await Promise.all(this.#running)
  }

  async #inflict({ kind, for_ms }: Planned): Promise<void> {
    const make = FAULTS[kind as Shape]
    const fault = make(this.#world, this.#chance)
    if (!fault) return
    const event = this.#begin(kind, fault.what)
    await fault.begin()
    await sleep(for_ms)
    await fault.end()
    event.to = now_ms()
  }

  async #loseReplies(): Promise<void> {
    // If it survives the destruction, each commit that it follows waits for its deadline: half of the runs are like
    // that.
    const fault = lostPrepareReplies(
      this.#world,
      this.#chance.pick(this.#chance.odds(0.5) ? this.victims : this.#world.living),
    )
    this.#begin('PREPARE replies lost', fault.what)
    await fault.begin()
  }

  async #destroy(): Promise<void> {
    const event = this.#begin('two destroyed', `servers ${this.victims.map((v) => v + 1).join(' and ')}, disks and all`)
    await this.#world.destroy(this.victims)
    event.to = event.from + 1
  }

  #begin(kind: Kind, what: string): Happened {
    const event = { kind, what, from: now_ms(), to: Infinity }
    this.happened.push(event)
    this.#say(`${kind}: ${what}`)
    return event
  }
}
