/**
 * What must hold after every event (design/dangers.md, S1 to S9): one decision for each transaction, whoever made,
 * applied or reported it; one history for each stripe; what is acknowledged is on some member of every majority.
 */
import { majority } from '../../driver/protocol/quorum.ts'
import type { Decision } from '../../driver/protocol/decision.ts'
import type { Observer, Server } from './server.ts'
import { bodyOf } from './state.ts'
import type { World } from './world.ts'

export class Violation extends Error {}

export interface Section {
  readonly names: readonly string[]
  readonly began: number
  readonly gid: string
}

export class Checks implements Observer {
  readonly violations: string[] = []
  readonly #world: World
  readonly #decisions = new Map<string, { decision: Decision; by: string }>()
  readonly #histories = new Map<string, { gid: string; by: string }>()
  readonly #firstCommit = new Map<string, number>()
  readonly #sections: Section[] = []
  acknowledged = 0

  constructor(world: World) {
    this.#world = world
  }

  fail(what: string): void {
    this.violations.push(`at ${this.#world.now.toFixed(1)} ms: ${what}`)
    this.#world.trace(`VIOLATION ${what}`)
  }

  /** S2, S4, S9. */
  decided(gid: string, decision: Decision, by: string): void {
    const before = this.#decisions.get(gid)
    if (!before) this.#decisions.set(gid, { decision, by })
    else if (before.decision !== decision)
      this.fail(`two decisions for ${gid}: ${before.decision} (${before.by}) and ${decision} (${by})`)
  }

  /** S3, at the moment of the commit; the server's state has it already. */
  committed(server: Server, gid: string): void {
    this.decided(gid, 'commit', `committed on ${server.name}`)
    if (!this.#firstCommit.has(gid)) this.#firstCommit.set(gid, this.#world.now)
    const raw = server.state.changesets.get(gid)
    for (const [t, n] of raw === undefined ? [] : bodyOf(raw).writes) {
      const history = server.state.history.get(`${t}/${n}`) ?? []
      const key = `${t}/${n}/${history.lastIndexOf(gid) + 1}`
      const other = this.#histories.get(key)
      if (!other) this.#histories.set(key, { gid, by: server.name })
      else if (other.gid !== gid)
        this.fail(`two histories: ${key} is ${other.gid} on ${other.by} and ${gid} on ${server.name}`)
    }
  }

  rolledBack(server: Server, gid: string): void {
    this.decided(gid, 'abort', `rolled back on ${server.name}`)
  }

  /** S1, at the moment of the acknowledgement. */
  acknowledge(gid: string, servers: readonly Server[], by: string): void {
    this.acknowledged++
    this.decided(gid, 'commit', `acknowledged to ${by}`)
    const holders = servers.filter((s) => s.vouches(gid))
    if (holders.length < servers.length - majority(servers.length) + 1)
      this.fail(
        `${gid} is acknowledged, but only ${holders.map((s) => s.name).join(', ') || 'nobody'} could vouch for it`,
      )
  }

  section(section: Section): void {
    this.#sections.push(section)
  }

  /** S8: two that held the same exclusive lock, and both committed, did not work at the same time. */
  exclusion(): void {
    const byName = new Map<string, Section[]>()
    for (const s of this.#sections) for (const name of s.names) byName.set(name, [...(byName.get(name) ?? []), s])
    for (const [name, sections] of byName) {
      const done = sections
        .filter((s) => this.#firstCommit.has(s.gid))
        .sort((a, b) => this.#firstCommit.get(a.gid)! - this.#firstCommit.get(b.gid)!)
      for (const [i, later] of done.entries())
        for (const earlier of done.slice(0, i)) {
          if (later.began < this.#firstCommit.get(earlier.gid)!)
            this.fail(`${earlier.gid} and ${later.gid} held ${name} at the same time, and both committed`)
        }
    }
  }
}
