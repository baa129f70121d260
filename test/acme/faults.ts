/**
 * Everything that is done to a run, by name. A fault says in a sentence what it hits, begins, and ends; between the
 * two it may keep moving.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import type { Disturbance } from './net.ts'
import type { World } from './world.ts'

export interface Fault {
  readonly what: string
  begin(): Promise<void> | void
  end(): Promise<void> | void
}
type Make = (world: World, chance: Chance) => Fault | undefined

const name = (i: number): string => `server ${i + 1}`
const list = (all: readonly number[]): string => all.map((i) => i + 1).join(' ')

function network(world: World, what: string, disturbance: Disturbance): Fault {
  const set = (how: 'lay' | 'lift'): void => {
    world.net[how](disturbance)
    world.note()
  }
  return { what, begin: () => set('lay'), end: () => set('lift') }
}

/** Client c sees the servers of views[c], and nobody else. */
const views = (world: World, what: string, sees: readonly (readonly number[])[]): Fault =>
  network(world, `${what}: ${sees.map(list).join(' | ')}`, {
    cut: (c, s) => (sees[c % sees.length]?.includes(s) ? undefined : 'both'),
  })

/** Majorities of those that live, one for each client, as different as can be. */
function majorities(world: World, chance: Chance): number[][] {
  return world.fleet.slots.map(() =>
    chance
      .shuffle(world.living)
      .slice(0, world.majority)
      .sort((a, b) => a - b),
  )
}

export const FAULTS = {
  'kill server': (w, c) => {
    if (w.up.length === 0) return undefined
    const victim = c.pick(w.up)
    return { what: name(victim), begin: () => w.kill(victim), end: () => w.start(victim) }
  },
  'freeze server': (w, c) => {
    if (w.up.length === 0) return undefined
    const victim = c.pick(w.up)
    return { what: name(victim), begin: () => w.freeze(victim), end: () => w.thaw(victim) }
  },
  'kill client': (w, c) => {
    if (w.clients.length === 0) return undefined
    const slot = c.pick(w.clients)
    return {
      what: `client ${slot.index + 1}`,
      async begin() {
        await w.fleet.kill(slot)
        w.note()
      },
      async end() {
        await w.fleet.start(slot)
        w.note()
      },
    }
  },
  'freeze client': (w, c) => {
    if (w.clients.length === 0) return undefined
    const slot = c.pick(w.clients)
    return {
      what: `client ${slot.index + 1}`,
      begin() {
        w.fleet.freeze(slot)
        w.note()
      },
      end() {
        w.fleet.thaw(slot)
        w.note()
      },
    }
  },
  'cut one off': (w, c) => {
    const victim = c.pick(w.living)
    return network(w, name(victim), { cut: (_, s) => (s === victim ? 'both' : undefined) })
  },
  'minority | majority': (w, c) => {
    const all = c.shuffle(w.living)
    const [few, many] = [all.slice(0, w.majority - 1), all.slice(w.majority - 1)]
    return views(w, 'by client', c.odds(0.5) ? [few, many] : [many, few])
  },
  'ring of majorities': (w, c) => {
    const from = c.below(w.living.length)
    return views(
      w,
      'by client',
      w.fleet.slots.map((_, i) =>
        Array.from({ length: w.majority }, (_x, k) => w.living[(from + i + k) % w.living.length] ?? 0),
      ),
    )
  },
  bridge: (w, c) => {
    const [middle, ...rest] = c.shuffle(w.living)
    if (middle === undefined) return undefined
    const half = Math.ceil(rest.length / 2)
    return views(w, `over ${name(middle)}`, [
      [middle, ...rest.slice(0, half)],
      [middle, ...rest.slice(half)],
    ])
  },
  'different majorities': (w, c) => {
    let now = majorities(w, c)
    let moving = false
    const disturbance = (): Disturbance => {
      const sees = now
      return { cut: (client, s) => (sees[client]?.includes(s) ? undefined : 'both') }
    }
    let on = disturbance()
    return {
      what: `another each second, first ${now.map(list).join(' | ')}`,
      begin() {
        w.net.lay(on)
        w.note()
        moving = true
        void (async () => {
          for (;;) {
            await sleep(1000)
            if (!moving) return
            now = majorities(w, c)
            const next = disturbance()
            w.net.lay(next)
            w.net.lift(on)
            on = next
            w.note()
          }
        })()
      },
      end() {
        moving = false
        w.net.lift(on)
        w.note()
      },
    }
  },
  'one way': (w, c) => {
    const victim = c.pick(w.living)
    const direction = c.odds(0.5) ? 'to-server' : 'to-client'
    const who = c.odds(0.5) ? undefined : c.below(w.fleet.slots.length)
    return network(
      w,
      `nothing ${direction.replace('-', ' ')} at ${name(victim)}, ${who === undefined ? 'all clients' : `client ${who + 1}`}`,
      { cut: (client, s) => (s === victim && (who === undefined || who === client) ? direction : undefined) },
    )
  },
  'deaf client': (w, c) => {
    const who = c.below(w.fleet.slots.length)
    const deaf = c.shuffle(w.living).slice(0, w.majority)
    return network(w, `client ${who + 1} is heard by all, hears nothing of ${list(deaf)}`, {
      cut: (client, s) => (client === who && deaf.includes(s) ? 'to-client' : undefined),
    })
  },
  'slow server': (w, c) => {
    const victim = c.pick(w.living)
    const ms = 100 + c.below(400)
    return network(w, `${name(victim)}, ${ms} ms each way`, { latency: (_, s) => (s === victim ? ms : 0) })
  },
  reset: (w, c) => {
    const who = c.below(w.fleet.slots.length)
    return { what: `all connections of client ${who + 1}`, begin: () => w.net.reset(who), end: () => undefined }
  },
  'COMMIT reply lost': (w, c) => {
    const who = c.below(w.fleet.slots.length)
    return network(w, `client ${who + 1}, one on each server`, {
      rule: (client) =>
        client === who
          ? { direction: 'to-client', message: 'C', match: /^COMMIT$/, nth: 4, action: 'lose-reply' }
          : undefined,
    })
  },
  'torn message': (w, c) => {
    const who = c.below(w.fleet.slots.length)
    return network(w, `client ${who + 1}, the next PREPARE to each server`, {
      rule: (client) =>
        client === who ? { direction: 'to-server', match: /PREPARE TRANSACTION/, nth: 2, action: 'tear' } : undefined,
    })
  },
  'no majority': (w, c) => {
    const some = c.shuffle(w.up).slice(0, w.up.length - w.majority + 1)
    if (some.length === 0) return undefined
    return {
      what: `kill -9 of ${list(some)} in the same instant`,
      begin: async () => void (await Promise.all(some.map((i) => w.kill(i)))),
      end: async () => void (await Promise.all(some.map((i) => w.start(i)))),
    }
  },
} satisfies Record<string, Make>

export type Kind = keyof typeof FAULTS | 'PREPARE replies lost' | 'two destroyed'

/** For ever: nobody ever lifts it. */
export const lostPrepareReplies = (world: World, victim: number): Fault =>
  network(world, `${name(victim)}, for every client, for ever`, {
    rule: (_, s) =>
      s === victim
        ? { direction: 'to-client', message: 'C', match: /^PREPARE TRANSACTION/, action: 'lose-reply' }
        : undefined,
  })
