/**
 * Looks over the driver's shoulder, with connections of its own straight to each server: what is in doubt there
 * because its owner died, and what a server that was away has missed. It only reads; whatever gets finished or
 * caught up, the clients did it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { EmbeddedServer } from '../../driver/embedded/embedded.ts'

/** One short question to one server; undefined while it is down. */
export async function ask<T extends pg.QueryResultRow>(
  server: EmbeddedServer,
  text: string,
  values: unknown[] = [],
): Promise<T[] | undefined> {
  const client = new pg.Client({ connectionString: server.url, connectionTimeoutMillis: 2000 })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return (await client.query<T>(text, values)).rows
  } catch (error) {
    if (
      server.pid !== undefined &&
      !(error instanceof Error && /connect|terminat|starting up|shutting down/i.test(error.message))
    )
      throw error
    return undefined
  } finally {
    await client.end().catch(() => undefined)
  }
}

const PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'quorum\\_%'"

export async function preparedOn(server: EmbeddedServer): Promise<string[]> {
  return ((await ask<{ gid: string }>(server, PREPARED)) ?? []).map((r) => r.gid)
}

/** Collects the prepared transactions of owners that are dead: a commit on its way is nobody's doubt. */
export class DoubtWatch {
  readonly found = new Set<string>()
  readonly #servers: readonly EmbeddedServer[]
  readonly #isDead: (owner: string) => boolean
  #running: Promise<unknown> | undefined
  #stopped = false

  constructor(servers: readonly EmbeddedServer[], isDead: (owner: string) => boolean) {
    this.#servers = servers
    this.#isDead = isDead
  }

  /** Called just before an owner dies: others may finish its transactions within a few milliseconds. */
  start(): void {
    this.#running ??= Promise.all(this.#servers.map((server) => this.#poll(server)))
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  /** What a crash left prepared on a server, seen when it is back. */
  async look(back: EmbeddedServer, died: Date): Promise<void> {
    for (const { gid } of (await ask<{ gid: string }>(back, `${PREPARED} AND prepared < $1`, [died])) ?? [])
      this.found.add(gid)
  }

  /** One connection for as long as it lasts; a new one for each look would cost the servers more than the looks. */
  async #poll(server: EmbeddedServer): Promise<void> {
    while (!this.#stopped) {
      const client = new pg.Client({ connectionString: server.url, connectionTimeoutMillis: 1000 })
      client.on('error', () => undefined)
      try {
        await client.connect()
        for (; !this.#stopped; await sleep(40)) {
          const { rows } = await client.query<{ gid: string }>(PREPARED)
          for (const { gid } of rows) if (this.#isDead(gid.split('_')[3] ?? '')) this.found.add(gid)
        }
      } catch {
        await sleep(200) // down for now
      } finally {
        await client.end().catch(() => undefined)
      }
    }
  }
}

/** How much `back` had missed when it came back, and how long until it had all of it and kept up with `other`. */
export class Return {
  missed = 0
  level_ms: number | undefined

  async watch(
    back: EmbeddedServer,
    other: EmbeddedServer,
    away_since: Date,
    patience_ms: number,
    onMissed: (missed: number) => void,
  ): Promise<void> {
    const began = performance.now()
    for (let first = true; performance.now() - began < patience_ms; first = false) {
      const there = await this.#applied(other, away_since)
      if (!first) await sleep(200) // time for a commit that has just reached the other to reach this one too
      const here = await this.#applied(back, away_since)
      const missing = [...there].filter((gid) => !here.has(gid)).length
      if (first) onMissed((this.missed = missing))
      else if (missing === 0) {
        this.level_ms = Math.round(performance.now() - began)
        return
      }
    }
  }

  async #applied(server: EmbeddedServer, since: Date): Promise<Set<string>> {
    const rows = await ask<{ gid: string }>(
      server,
      "SELECT gid FROM quorum.applied WHERE at > $1::timestamptz - interval '10 s'",
      [since],
    )
    return new Set((rows ?? []).map((r) => r.gid))
  }
}
