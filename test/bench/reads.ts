/**
 * npm run bench:reads [-- rounds reads]: how long a read of one row takes, for each kind of read, as a ratio to
 * plain pg on one of the same servers; with all three up, with one killed, and with one 300 ms away. By turns, so
 * that what else the machine does falls on all alike: the median of each round's medians, and the machine's load.
 */
import { loadavg } from 'node:os'
import pg from 'pg'
import type { Reads } from '../../driver/protocol/dial.ts'
import { startServers } from '../../driver/embedded/embedded.ts'
import { init } from '../../driver/schema/install.ts'
import { startProxy } from '../faults/proxy.ts'
import { published } from './published.ts'

const [rounds = 7, reads = 60] = process.argv.slice(2).map(Number)
const SLOW_MS = 300
const BALANCE = 'SELECT balance FROM accounts WHERE id = $1'
const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!
const KINDS: Readonly<Record<string, Reads>> = {
  strong: 'strong',
  session: 'session',
  'maxStalenessMs 1000': { maxStalenessMs: 1000 },
  'maxLag 10': { maxLag: 10 },
  eventual: 'eventual',
}

const servers = await startServers(3)
const proxies = await Promise.all(servers.map((s) => startProxy(s.url)))
try {
  await init(
    servers.map((s) => ({ connectionString: s.url })),
    servers.map((s) => s.url),
  )
  const urls = proxies.map((p) => p.url)
  const pool = new (await published()).Pool({ replicas: urls })
  await pool.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)')
  await pool.query('INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 1000) g')
  void pool.session
  const plain = new pg.Pool({ connectionString: urls[1]! }) // through a proxy as well, on a server that stays
  const ways = new Map<string, (id: number) => Promise<unknown>>([
    ['plain pg', (id) => plain.query(BALANCE, [id])],
    ...Object.entries(KINDS).map(
      ([name, kind]) => [name, (id: number) => pool.reads(kind).query(BALANCE, [id])] as const,
    ),
  ])
  const measure = async (state: string): Promise<void> => {
    const medians = new Map([...ways.keys()].map((name): [string, number[]] => [name, []]))
    for (let round = -1; round < rounds; round++)
      for (const [name, way] of ways) {
        // one round to warm up
        const took: number[] = []
        for (let i = 0; i < reads; i++) {
          const from = performance.now()
          await way(1 + (i % 20))
          took.push(performance.now() - from)
        }
        if (round >= 0) medians.get(name)!.push(median(took))
      }
    const base = median(medians.get('plain pg')!)
    console.log(
      `${state}: plain pg ${base.toFixed(2)} ms; ${[...medians]
        .slice(1)
        .map(([name, list]) => `${name} × ${(median(list) / base).toFixed(1)}`)
        .join(', ')} (load ${loadavg()[0]!.toFixed(1)})`,
    )
  }
  console.log(`${rounds} rounds of ${reads} reads each`)
  await measure('all up')
  proxies[2]!.latency(SLOW_MS)
  await measure('a follower slow')
  proxies[2]!.heal()
  proxies[0]!.latency(SLOW_MS)
  await measure('the lead slow')
  proxies[0]!.heal()
  await servers[2]!.kill()
  await measure('one down')
  await Promise.all([pool.end(), plain.end()])
} finally {
  await Promise.all(proxies.map((p) => p.close()))
  await Promise.all(servers.map((s) => s.destroy()))
}
