/**
 * Swarm faults: the seed says which kinds there are in this run, and how many (Groce et al., "Swarm Testing", ISSTA
 * 2012: leaving kinds out finds more than mixing everything always).
 */
import { majority } from '../../driver/protocol/quorum.ts'
import { STEPS } from '../../driver/runtime.ts'
import type { Direction } from './network.ts'
import type { Run } from './run.ts'
import type { Server } from './server.ts'
import { Actor } from './world.ts'

export const KINDS = [
  'crash',
  'crash-after-reply',
  'power',
  'destroy',
  'wipe',
  'stop-server',
  'stop-backend',
  'slow-disk',
  'kill-client',
  'kill-between-messages',
  'kill-at-step',
  'stop-client',
  'close-client',
  'cut-link',
  'cut-server',
  'blackout',
  'one-way',
  'one-way-server',
  'reset',
  'slow-link',
  'slow-client',
  'lose-reply',
  'lose-prepare-reply',
  'client-clock',
  'server-clock',
] as const
export type FaultKind = (typeof KINDS)[number]

const DIRECTIONS: readonly Direction[] = ['to-server', 'to-client']

export class Faults {
  readonly #run: Run
  readonly #actor = new Actor('faults')
  readonly counts: Partial<Record<FaultKind, number>> = {}
  /** Kinds that act while something is sent or replied. */
  loseReplies = 0
  readonly deafTo = new Set<number>()
  /** Server → the verb after whose next reply it crashes. */
  readonly crashAfter = new Map<number, string>()
  readonly sendsLeft = new Map<Actor, number>()
  readonly dieAt = new Map<Actor, string>()
  /** Whom it is out of reach of for a while. */
  readonly #hidden = new Map<Server, readonly Actor[]>()
  #over = false

  constructor(run: Run) {
    this.#run = run
  }

  start(): void {
    const { world, plan } = this.#run
    const dice = world.dice('faults')
    if (plan.churn_ms > 0) world.at(0, this.#actor, () => this.#churn())
    for (let i = 0; i < plan.faults; i++) {
      const at = dice.between(0, plan.length_ms)
      const kind = plan.kinds.length > 0 ? dice.pick(plan.kinds) : undefined
      const duration = dice.hits(0.2) ? plan.length_ms : dice.between(20, 3000)
      const own = Math.floor(dice.next() * 2 ** 31)
      if (kind) world.at(at, this.#actor, () => this.#strike(kind, duration, own))
    }
  }

  /** The run's bad part is over: what has not ended yet ends only where healing says so. */
  stop(): void {
    this.#over = true
    this.#actor.die()
    this.loseReplies = 0
    this.deafTo.clear()
    this.crashAfter.clear()
    this.sendsLeft.clear()
    this.dieAt.clear()
  }

  /**
   * Each client reaches another majority than before, sometimes all or too few; what was on its way to the others
   * stalls.
   */
  #churn(): void {
    const { world, servers, clients, plan } = this.#run
    const dice = world.dice('churn')
    for (const { actor } of clients) {
      const W = majority(servers.length)
      const reached = servers
        .map((s) => ({ s, r: dice.next() }))
        .sort((a, b) => a.r - b.r)
        .slice(0, dice.pick([W, W, W, W, W - 1, servers.length]))
        .map(({ s }) => s)
      for (const s of servers) {
        const link = this.#run.link(actor, s)
        if (reached.includes(s) && !this.#hidden.get(s)?.includes(actor)) link.heal()
        else link.sever(dice.pick([DIRECTIONS, DIRECTIONS, ['to-server'], ['to-client']]))
      }
    }
    world.at(dice.between(0.2, 2) * plan.churn_ms, this.#actor, () => this.#churn())
  }

  /** A transaction was sealed: its owner or its lead drops out on the way, and others resolve it, several at once. */
  duel(gid: string, owner: Actor): void {
    const { world, servers, plan } = this.#run
    const dice = world.dice('duel')
    const lead = servers.find((s) => [...s.backends].some((b) => b.tx?.sealed?.gid === gid))
    const while_ms = dice.between(20, 400)
    const fate = dice.pick(['none', 'hide', 'hide', 'crash', 'kill', 'kill', 'stop'] as const)
    world.trace(`duel over ${gid}: ${fate} ${lead?.name ?? ''}`)
    if (fate === 'kill')
      this.dieAt.set(owner, dice.pick(['accept-sent', 'accepted', 'lead-committing', 'lead-committed']))
    else if (fate === 'stop') this.#later(dice.between(0, 10), () => world.pause(owner, while_ms))
    else if (lead && fate === 'crash')
      this.#later(dice.between(0, 30), () => {
        lead.crash(dice.hits(0.5))
        this.#later(while_ms, () => lead.start())
      })
    else if (lead && fate === 'hide') {
      const from = this.#run.clients.map((c) => c.actor).filter((a) => a !== owner && dice.hits(0.7))
      this.#hidden.set(lead, from)
      for (const a of from) this.#run.link(a, lead).sever(DIRECTIONS)
      this.#later(while_ms, () => {
        this.#hidden.delete(lead)
        for (const a of from) this.#run.link(a, lead).heal()
      })
    }
    const followers = servers.filter((s) => s !== lead).map((s) => this.#run.link(owner, s))
    // zombies
    if (dice.hits(0.4)) for (const link of followers) link.slow_ms = dice.between(0.5, 1.5) * plan.limits.call_ms
    if (dice.hits(0.2))
      for (const link of followers.slice(1)) {
        // definitely refused by all but one
        for (const c of [...link.connections]) c.reset()
        link.sever(DIRECTIONS)
      }
    if (dice.hits(0.2))
      this.#later(dice.between(0, while_ms), () => {
        for (const s of servers) s.clock_ms -= 3_600_000
      })
    for (let i = 0; i < plan.meddling; i++)
      this.#later(dice.between(0, plan.meddling_ms), () => {
        const others = this.#run.clients.filter((c) => c.actor !== owner && !c.ending)
        if (others.length === 0) return
        const client = dice.pick(others)
        // perhaps between two of its votes
        if (dice.hits(0.25)) this.sendsLeft.set(client.actor, 1 + dice.below(4 * servers.length))
        world.at(0, client.actor, () => void client.ask(gid, client.actor.name))
      })
  }

  /** All servers at once, the moment that something was decided: what was not durable is gone everywhere. */
  powerCut(): void {
    const dice = this.#run.world.dice('power cut')
    if (!dice.hits(0.15)) return
    for (const s of this.#run.servers) {
      s.crash(true)
      this.#later(dice.between(1, 60), () => {
        s.silent = false
        s.start()
      })
    }
  }

  #later(ms: number, undo: () => void): void {
    this.#run.world.at(ms, this.#actor, undo)
  }

  #strike(kind: FaultKind, duration: number, own: number): void {
    const { world, servers, clients } = this.#run
    if (this.#over) return
    const server = servers[own % servers.length]!
    const client = clients[Math.floor(own / 7) % clients.length]
    const link = client ? this.#run.link(client.actor, server) : undefined
    const links = clients.map((c) => this.#run.link(c.actor, server))
    const direction = DIRECTIONS[Math.floor(own / 31) % 2]!
    const lost = servers.filter((s) => s.destroyed || s.wiped).length
    world.trace(`fault ${kind} ${server.name} ${client?.actor.name ?? ''} ${duration.toFixed(0)}`)
    const cut = (which: typeof links, directions: readonly Direction[]): void => {
      for (const l of which) l.sever(directions)
      this.#later(duration, () => {
        for (const l of which) l.heal()
      })
    }
    switch (kind) {
      case 'crash':
      case 'power':
        server.crash(kind === 'power')
        this.#later(Math.min(duration, 2500), () => server.start())
        break
      case 'crash-after-reply':
        this.crashAfter.set(server.index, ['promise', 'accept', 'finish', 'commit'][own % 4]!)
        break
      case 'destroy':
      case 'wipe':
        if (server.destroyed || server.wiped || lost >= servers.length - majority(servers.length)) return
        server[kind]()
        break
      case 'stop-server':
        if (server.postmaster) world.pause(server.postmaster, duration)
        break
      case 'stop-backend': {
        const backends = [...server.backends]
        if (backends.length > 0) world.pause(backends[Math.floor(own / 13) % backends.length]!, duration)
        break
      }
      case 'slow-disk':
        server.fsync_ms = 200
        this.#later(duration, () => {
          server.fsync_ms = 3
        })
        break
      case 'kill-client':
        if (client) this.#run.kill(client, own % 2 === 0)
        break
      case 'kill-between-messages':
        if (client) this.sendsLeft.set(client.actor, own % 40)
        break
      case 'kill-at-step':
        if (client) this.dieAt.set(client.actor, STEPS[own % STEPS.length]!)
        break
      case 'close-client':
        if (client) this.#run.close(client)
        break
      case 'stop-client':
        if (client) world.pause(client.actor, duration)
        break
      case 'cut-link':
        if (link) cut([link], DIRECTIONS)
        break
      case 'cut-server':
        cut(links, DIRECTIONS)
        break
      case 'blackout': // nobody reaches a majority
        for (const s of servers.filter((_, i) => (i + own) % servers.length < majority(servers.length)))
          cut(
            clients.map((c) => this.#run.link(c.actor, s)),
            DIRECTIONS,
          )
        break
      case 'one-way':
        if (link) cut([link], [direction])
        break
      case 'one-way-server':
        cut(links, [direction])
        break
      case 'reset':
        for (const c of [...(link?.connections ?? [])]) if (world.dice('faults').hits(0.5)) c.reset()
        break
      case 'slow-link':
        for (const l of links) l.slow_ms = 300
        this.#later(duration, () => {
          for (const l of links) l.slow_ms = 0
        })
        break
      case 'slow-client': // all but one of its servers are far away
        if (client) for (const s of servers) if (s !== server) this.#run.link(client.actor, s).slow_ms = 600
        this.#later(duration, () => {
          if (client) for (const s of servers) this.#run.link(client.actor, s).slow_ms = 0
        })
        break
      case 'lose-reply':
        this.loseReplies += 0.02
        this.#later(duration, () => {
          this.loseReplies = Math.max(0, this.loseReplies - 0.02)
        })
        break
      case 'lose-prepare-reply':
        this.deafTo.add(server.index)
        this.#later(duration, () => this.deafTo.delete(server.index))
        break
      case 'client-clock':
        if (client) client.actor.clock_ms += 3_600_000
        break
      case 'server-clock':
        server.clock_ms += own % 2 === 0 ? 3_600_000 : -3_600_000
        break
      default:
        kind satisfies never
    }
    this.counts[kind] = (this.counts[kind] ?? 0) + 1
  }
}
