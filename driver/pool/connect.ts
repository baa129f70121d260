/**
 * Where the PostgreSQL replica is constructed for the pool and its clients: options become a cluster. One cluster a
 * pool, shared by its clients.
 */
import type pg from 'pg'
import { limitsOf, replicaConfigs, type QuorumOptions } from '../config.ts'
import { badInput } from '../errors.ts'
import { nameOf, watched } from '../replica/address.ts'
import { PostgresReplica } from '../replica/postgres.ts'
import { Cluster } from '../transaction/cluster.ts'
import { BuiltIns } from './built-ins.ts'
import { dialOf, placesOf } from './dial.ts'
import type { Client } from './client.ts'
import type { Listening } from './listening.ts'
import { Waits } from './waits.ts'

export const CLUSTER = Symbol('pg-quorum cluster')

export interface Wiring {
  readonly cluster: Cluster
  readonly configs: readonly pg.ClientConfig[]
  readonly builtIns: BuiltIns
  listening?: Listening
  readonly waits: Waits
  /** From when they begin to connect until they end. */
  readonly clients: Set<Client>
}

/**
 * How a server is reached, and what its sessions start with. The rest of an application's options are for its own
 * connections.
 */
const ADDRESS = [
  'connectionString',
  'host',
  'port',
  'user',
  'password',
  'database',
  'ssl',
  'sslnegotiation',
  'sslNegotiation',
  'enableChannelBinding',
  'scramMaxIterations',
  'stream',
  'options',
] as const

export function plain(config: pg.ClientConfig): pg.ClientConfig {
  const address = Object.fromEntries(
    ADDRESS.filter((key) => key in config).map((key) => [key, config[key as keyof pg.ClientConfig]]),
  ) as pg.ClientConfig
  if (address.connectionString)
    address.connectionString = address.connectionString.replace(
      /([?&])(statement_timeout|lock_timeout|idle_in_transaction_session_timeout|query_timeout)=[^&#]*/g,
      '$1',
    )
  return address
}

export function wire(options: QuorumOptions & pg.PoolConfig): Wiring {
  const given = replicaConfigs(options)
  const configs = given.map(watched)
  const limits = limitsOf(options)
  const cluster = new Cluster(
    (c) =>
      configs.map(
        (config, index) =>
          new PostgresReplica({
            name: given[index]?.name ?? nameOf(config),
            index,
            config: plain(config),
            links: 3 * (options.max ?? 10) + 5,
            connectMs: limits.connect_ms,
            callMs: limits.call_ms,
            owner: c.owner,
            check: c.check,
          }),
      ),
    limits,
    dialOf(options),
  )
  cluster.places = placesOf(given, options.zone)
  const prefer = options.write?.prefer
  if (prefer !== undefined) {
    cluster.leader = cluster.replicas.find((r) => r.name === prefer || r.name.split('/')[0] === prefer)
    if (!cluster.leader)
      throw badInput(
        `write.prefer: no replica is called '${prefer}'; there are ${cluster.replicas.map((r) => r.name).join(', ')}`,
      )
  }
  // The lead's own connection too: a server that takes the connection and says nothing (a partition, SIGSTOP) would
  // hold its client for ever.
  return {
    cluster,
    builtIns: new BuiltIns(),
    waits: new Waits(cluster),
    clients: new Set(),
    configs: configs.map((c) => ({ ...c, connectionTimeoutMillis: c.connectionTimeoutMillis || limits.connect_ms })),
  }
}
