/*
 * The servers of the tests: real ones from npm (driver/embedded), or Docker containers when PG_QUORUM_DOCKER is set
 * and a container runtime answers. Both behind one small interface, with the same settings; both vanish with this
 * process.
 */
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { startServers } from '../driver/embedded/embedded.ts'
import type { ServerOptions } from '../driver/embedded/embedded.ts'

export interface TestServer {
  readonly port: number
  readonly url: string
  start(): Promise<void>
  stop(): Promise<void>
  kill(): Promise<void>
  freeze(): void | Promise<void>
  thaw(): void | Promise<void>
  destroy(): Promise<void>
}

/** For `before`; give the servers to destroyAll in `after`. */
export async function threeServers(options: ServerOptions = {}, n = 3): Promise<TestServer[]> {
  if (process.env['PG_QUORUM_DOCKER']) {
    const { getContainerRuntimeClient } = await import('testcontainers')
    const docker = await getContainerRuntimeClient().catch(() => undefined)
    if (docker) return Promise.all(Array.from({ length: n }, () => container(docker, options)))
  }
  return startServers(n, { ...options, ahead: true })
}

export async function destroyAll(servers: readonly TestServer[] | undefined): Promise<void> {
  await Promise.all((servers ?? []).map((s) => s.destroy()))
}

/** One statement on one connection. */
export async function ask(
  server: { url: string },
  text: string,
  values?: unknown[],
): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(server.url)
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(text, values)).rows
  } finally {
    await client.end().catch(() => undefined)
  }
}

type Docker = Awaited<ReturnType<typeof import('testcontainers').getContainerRuntimeClient>>

async function container(docker: Docker, options: ServerOptions): Promise<TestServer> {
  const { PostgreSqlContainer } = await import('@testcontainers/postgresql')
  const { RandomPortGenerator } = await import('testcontainers')
  const settings = { max_prepared_transactions: 64, max_connections: 300, shared_buffers: '32MB', ...options.settings }
  const port = await new RandomPortGenerator().generatePort() // fixed: a random mapping changes with every restart
  const started = await new PostgreSqlContainer(`postgres:${options.major ?? (process.env['PG_MAJOR'] || 18)}-alpine`)
    .withDatabase('postgres')
    .withUsername('postgres')
    .withEnvironment({ POSTGRES_HOST_AUTH_METHOD: 'trust' })
    .withExposedPorts({ container: 5432, host: port })
    .withCommand(['postgres', ...Object.entries(settings).flatMap(([k, v]) => ['-c', `${k}=${v}`])])
    .start()
  const host = started.getHost()
  const it = docker.container.getById(started.getId())
  const url = `postgres://postgres@${host}:${port}/postgres`
  const ifRunning = (e: { statusCode?: number }): void => {
    if (e.statusCode !== 304 && e.statusCode !== 409) throw e
  }
  return {
    port,
    url,
    async start() {
      await it.start().catch(ifRunning)
      for (const end = Date.now() + 30_000; ; await sleep(20)) {
        try {
          await ask({ url }, 'SELECT 1')
          return
        } catch (e) {
          if (Date.now() > end) throw e
        }
      }
    },
    async stop() {
      await it.stop({ signal: 'SIGINT', t: 5 }).catch(ifRunning)
    },
    async kill() {
      await it.kill().catch(ifRunning)
    },
    async freeze() {
      await it.pause()
    },
    async thaw() {
      await it.unpause()
    },
    async destroy() {
      await it.remove({ force: true, v: true })
    },
  }
}

/** Whether something listens there. */
export function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    }).once('error', () => resolve(false))
  })
}
