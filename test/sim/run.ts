/**
 * One seed from beginning to end. First safety: users work while faults strike. Then liveness: a majority (W, where
 * the dial says more) is healed, the rest stays in its worst state for ever, and everything must drain and go on.
 * At last everything that was not destroyed is healed, must become equal, and the history is judged.
 */
import { majority } from '../../driver/protocol/quorum.ts'
import { onStep, replaceHost } from '../../driver/runtime.ts'
import { checkFinal } from '../checker/final.ts'
import { checkListAppend } from '../checker/list-append.ts'
import type { Transaction as Recorded } from '../checker/history.ts'
import { Checks } from './checks.ts'
import { Client } from './client.ts'
import { Faults } from './faults.ts'
import { KEEPALIVE_MS, Link, watchSends } from './network.ts'
import type { Plan } from './plan.ts'
import { bodyOf, type Body } from './state.ts'
import { Server, watchReplies } from './server.ts'
import { judgeWeak, type WeakRead } from './weak.ts'
import { Actor, CALM, CLEAR, World } from './world.ts'

/** Whose effects a crash right after the reply may take back, if they were not durable. */
const WRITING = new Set(['accept', 'promise', 'finish', 'commit', 'replay'])

export interface Report {
  readonly seed: number
  readonly violations: readonly string[]
  readonly hash: string
  readonly simulated_ms: number
  readonly events: number
  readonly acknowledged: number
  readonly reads: number
  /** Of them those that were not strong. */
  readonly weak: number
  readonly unknown: number
  readonly refused: number
  /** Transactions in doubt waited for a lead that was out of reach; for ever: it was destroyed (decision 4). */
  readonly blocked: number
  readonly blockedForEver: number
  readonly faults: Readonly<Record<string, number>>
  readonly steps: readonly string[]
}

export class Run {
  readonly plan: Plan
  readonly world: World
  readonly checks: Checks
  readonly servers: Server[]
  readonly clients: Client[] = []
  readonly history: Recorded[] = []
  readonly weak: WeakRead[] = []
  readonly #links = new Map<Actor, Map<number, Link>>()
  readonly #faults: Faults
  readonly #steps = new Set<string>()
  stopped = false
  started = 0
  values = 0
  reads = 0
  unknown = 0
  blocked = false
  blockedForEver = false
  #births = 0

  constructor(plan: Plan, log?: (line: string) => void) {
    this.plan = plan
    this.world = new World(plan.seed)
    this.world.log = log
    this.checks = new Checks(this.world)
    this.servers = Array.from({ length: plan.servers }, (_, i) => new Server(this.world, i, this.checks))
    for (const s of this.servers) s.floor = plan.floor ?? majority(plan.servers)
    this.#faults = new Faults(this)
  }

  link(client: Actor, server: Server): Link {
    let mine = this.#links.get(client)
    if (!mine) this.#links.set(client, (mine = new Map<number, Link>()))
    let link = mine.get(server.index)
    if (!link)
      mine.set(server.index, (link = new Link(this.world, this.world.dice('geography').next() * this.plan.spread_ms)))
    return link
  }

  spawn(): Promise<Client> {
    const actor = new Actor(`c${++this.#births}`)
    return new Promise((resolve) =>
      this.world.at(0, actor, () => {
        const client = new Client(this, actor)
        this.clients.push(client)
        for (let w = 0; w < this.plan.workers; w++) void client.work(w)
        resolve(client)
      }),
    )
  }

  /** silently: its machine is gone, nobody closes its connections. */
  kill(client: Client, silently: boolean): void {
    this.world.trace(`${client.actor.name} dies`)
    for (const link of this.#links.get(client.actor)?.values() ?? [])
      for (const c of [...link.connections]) {
        c.close(silently)
        // tcp_user_timeout and keepalive: the server's kernel notices at last.
        if (silently) this.world.at(KEEPALIVE_MS, this.world.nobody, () => c.reset())
      }
    client.actor.die()
    this.clients.splice(this.clients.indexOf(client), 1)
    if (!this.stopped) this.world.at(100, this.world.nobody, () => void this.spawn())
  }

  /** pool.end() with work in flight: whatever is open is let go, whoever is asked once more answers once more. */
  close(client: Client): void {
    this.world.trace(`${client.actor.name} closes`)
    client.ending = true
    this.world.at(0, client.actor, () => void client.cluster.close())
    this.world.at(4000, this.world.nobody, () => {
      if (this.clients.includes(client)) this.kill(client, false)
    })
  }

  #install(): void {
    const { plan } = this
    this.world.install()
    onStep((name, gid) => {
      const { actor } = this.world
      this.#steps.add(name)
      this.world.trace(`${actor.name} ${name} ${gid}`)
      if (name === 'sealed' && plan.meddling > 0 && !this.stopped) this.#faults.duel(gid, actor)
      if (name === 'decided' && plan.meddling > 0 && !this.stopped) this.#faults.powerCut()
      if (this.#faults.dieAt.get(actor) !== name) return
      this.#faults.dieAt.delete(actor)
      this.#fell(actor)
      return new Promise(() => undefined)
    })
    watchSends((actor) => {
      const left = this.#faults.sendsLeft.get(actor)
      if (left === undefined) return
      this.#faults.sendsLeft.set(actor, left - 1)
      if (left > 0) return
      this.#faults.sendsLeft.delete(actor)
      this.#fell(actor)
    })
    watchReplies((backend, verb) => {
      const { server } = backend
      const { unheard, crash } = this.world.weather
      const again = (ms: number): 'crash' => {
        this.world.at(ms, this.world.nobody, () => {
          if (!server.destroyed) server.start()
        })
        return 'crash'
      }
      if (this.#faults.crashAfter.get(server.index) === verb) {
        this.#faults.crashAfter.delete(server.index)
        return again(500)
      }
      if (crash > 0 && WRITING.has(verb) && this.world.dice('weather').hits(verb === 'promise' ? 3 * crash : crash))
        return again(this.world.dice('weather').between(1, 60))
      if (unheard > 0 && this.world.dice('weather').hits(unheard)) return 'lose'
      const lost =
        (verb === 'accept' && this.#faults.deafTo.has(server.index)) ||
        (this.#faults.loseReplies > 0 && this.world.dice('replies').hits(this.#faults.loseReplies))
      return lost ? 'lose' : 'send'
    })
  }

  #fell(actor: Actor): void {
    const client = this.clients.find((c) => c.actor === actor)
    if (client) this.kill(client, false)
  }

  async go(): Promise<Report> {
    this.#install()
    try {
      const { plan, world } = this
      const broken = (): boolean => this.checks.violations.length > 0
      const storm = (): void => {
        world.weather = plan.weather
        this.#faults.start()
      }
      if (plan.meddling === 0) storm()
      for (let i = 0; i < plan.clients; i++) void this.spawn()
      if (plan.meddling > 0) {
        // a duel needs something to fight for: fair weather until then
        world.weather = CLEAR
        await world.run(() => broken() || this.#steps.has('sealed'), plan.length_ms)
        storm()
      }
      await world.run(broken, world.now + plan.length_ms)
      if (!broken()) await this.#liveness(broken)
      if (!broken()) this.#judge()
      return this.#report()
    } finally {
      onStep(undefined)
      watchSends(() => undefined)
      watchReplies(() => 'send')
      replaceHost()
    }
  }

  async #liveness(broken: () => boolean): Promise<void> {
    const { world, servers } = this
    this.stopped = true
    this.#faults.stop()
    world.weather = CALM
    const able = servers.filter((s) => !s.destroyed && !s.wiped)
    const dice = world.dice('heal')
    const healthy = able
      .map((s) => ({ s, r: dice.next() }))
      .sort((a, b) => a.r - b.r)
      .slice(0, this.plan.floor ?? majority(servers.length))
      .map(({ s }) => s)
    world.trace(`healed: ${healthy.map((s) => s.name).join(' ')}`)
    // The others stay as they are, or worse.
    for (const s of able)
      if (!healthy.includes(s))
        dice.pick([
          () => undefined,
          () => s.crash(true),
          () => {
            if (s.postmaster) world.pause(s.postmaster, Infinity)
          },
          () => {
            for (const c of this.clients) this.link(c.actor, s).sever(['to-client'])
          },
        ])()
    await this.#healed(healthy)
    for (const c of [...this.clients]) if (c.ending) this.kill(c, false)
    if (this.clients.length === 0) {
      const born = this.spawn()
      await world.run(() => this.clients.length > 0, world.now + 10)
      await born
    }
    let probing = 0
    for (const client of this.clients) world.at(0, client.actor, () => client.sweep())
    for (const client of this.clients.slice(0, this.plan.probing))
      for (const key of this.plan.keys) {
        probing++
        world.at(0, client.actor, () => void client.probe(key).then(() => probing--))
      }
    const idle = (): boolean =>
      probing === 0 && this.clients.every((c) => c.busy === 0) && healthy.every((s) => s.state.prepared.size === 0)
    const drained = await world.run(() => broken() || idle(), world.now + this.plan.drain_ms)
    if (!drained && this.#undecidable(healthy)) this.blocked = true
    else if (!drained) {
      return this.checks.fail(
        `with ${healthy.map((s) => s.name).join(', ')} healed for ${this.plan.drain_ms} ms: ${probing} probes open, ${this.clients.map((c) => `${c.actor.name} busy ${c.busy}`).join(', ')}, prepared ${healthy.map((s) => [...s.state.prepared.keys()].join(' ')).join(' | ')}`,
      )
    }
    if (broken()) return
    await this.#healed(able)
    const equal = (): boolean =>
      able.every(
        (s) =>
          s.state.prepared.size === 0 &&
          s.state.position === able[0]!.state.position &&
          s.state.chainSum() === able[0]!.state.chainSum(),
      )
    const same = await world.run(() => broken() || equal(), world.now + this.plan.drain_ms)
    if (same || broken()) return
    if (this.#undecidable(able)) this.blocked = this.blockedForEver = true
    else
      this.checks.fail(
        `all healed for ${this.plan.drain_ms} ms, but not equal: ${able.map((s) => `${s.name} at ${s.state.position}, ${s.state.prepared.size} prepared`).join('; ')}`,
      )
  }

  /**
   * Decision 4: two that exclude each other are in doubt, and either may have been acknowledged: its lead is out of
   * reach, or (of one of them) it was voted for in a ballot.
   */
  #undecidable(reachable: readonly Server[]): boolean {
    const open = new Map(
      reachable.flatMap((s) => [...s.state.prepared].map(([gid, p]) => [gid, bodyOf(p.effects.raw ?? '')] as const)),
    )
    const orphaned = (body: Body): boolean => !reachable.some((s) => s.index + 1 === body.lead)
    const voted = (gid: string): boolean => reachable.some((s) => s.state.ballots.get(gid)?.decision === 'commit')
    const bound = [...open].filter(([gid, body]) => orphaned(body) || voted(gid)).map(([, body]) => body)
    const written = (body: Body, at: string): boolean => body.base.some((e) => e.w && `${e.t}/${e.n}` === at)
    return bound.some(
      (a) =>
        orphaned(a) &&
        bound.some(
          (b) =>
            a !== b &&
            a.base.some(
              (e) =>
                b.base.some((f) => f.t === e.t && f.n === e.n) &&
                (written(a, `${e.t}/${e.n}`) || written(b, `${e.t}/${e.n}`)),
            ),
        ),
    )
  }

  async #healed(servers: readonly Server[]): Promise<void> {
    for (const s of servers) {
      if (s.postmaster) this.world.resume(s.postmaster)
      for (const b of s.backends) this.world.resume(b)
      s.silent = false
      s.fsync_ms = 3
      s.start()
      for (const links of this.#links.values()) links.get(s.index)?.heal()
    }
    for (const c of this.clients) this.world.resume(c.actor)
    await Promise.resolve()
  }

  #judge(): void {
    const { checks } = this
    if (this.blockedForEver) {
      checks.exclusion()
      for (const a of checkListAppend(this.history)) checks.fail(`${a.kind}: ${a.message}`)
      return
    }
    const able = this.servers.filter((s) => !s.destroyed && !s.wiped)
    const rows = able.map((s) => JSON.stringify([...s.state.rows].map(([t, r]) => [t, [...r].sort()])))
    const chains = able.map((s) => JSON.stringify(s.state.versions().sort()))
    for (const [i, s] of able.entries())
      if (rows[i] !== rows[0] || chains[i] !== chains[0])
        checks.fail(`${s.name} differs from ${able[0]!.name}: ${rows[i]} and ${rows[0]}`)
    checks.exclusion()
    const once = [...(able[0]!.state.rows.get('public.once')?.values() ?? [])]
    if (new Set(once).size < once.length) checks.fail(`a unique value twice: ${once.join(' ')}`)
    const final = new Map(
      this.plan.keys.map((k): [string, number[]] => [
        k,
        (able[0]!.state.rows.get('public.lists')?.get(k) ?? '')
          .split(',')
          .filter((v) => v !== '')
          .map(Number),
      ]),
    )
    judgeWeak(this.weak, this.history, final, (what) => checks.fail(what))
    for (const a of [...checkListAppend(this.history), ...checkFinal(this.history, final)])
      checks.fail(`${a.kind}: ${a.message}`)
  }

  #report(): Report {
    const { checks, world } = this
    return {
      seed: this.plan.seed,
      violations: checks.violations,
      hash: world.hash,
      simulated_ms: world.now,
      events: world.events,
      acknowledged: checks.acknowledged,
      reads: this.reads + this.weak.length,
      weak: this.weak.length,
      unknown: this.unknown,
      blocked: Number(this.blocked),
      blockedForEver: Number(this.blockedForEver),
      refused: this.history.filter((t) => t.type === 'fail').length,
      faults: this.#faults.counts as Record<string, number>,
      steps: [...this.#steps],
    }
  }
}
