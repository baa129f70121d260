import pg from 'pg'
import { leadOver } from '../../driver/replica/postgres-lead.ts'
import { PostgresReplica } from '../../driver/replica/postgres.ts'
import { sleep } from '../../driver/runtime.ts'
import { ask } from '../servers.ts'
import type { TestCluster } from '../cluster.ts'
import type { Harness, User } from './harness.ts'

const BEGIN = { 'read committed': 'BEGIN', 'repeatable read': 'BEGIN ISOLATION LEVEL REPEATABLE READ' }

/**
 * The same three servers for every scenario; what one leaves in the tables would be seen by the next, so each
 * starts by emptying them.
 */
export async function real(c: TestCluster, scenario: (h: Harness) => Promise<void>): Promise<void> {
  for (const s of c.servers)
    await ask(
      s,
      "SET quorum.bypass = 'on'; TRUNCATE lists, once, quorum.stripe, quorum.changeset, quorum.applied, quorum.history, quorum.mark, quorum.ballot; DELETE FROM quorum.capture",
    )
  const replicas = c.urls.map(
    (connectionString, index) =>
      new PostgresReplica({
        name: `s${index + 1}`,
        index,
        config: { connectionString },
        links: 20,
        connectMs: 3000,
        callMs: 4000,
        check: () => undefined,
      }),
  )
  const clients: pg.Client[] = []
  try {
    await scenario({
      replicas,
      async user(member): Promise<User> {
        const client = new pg.Client(c.urls[member])
        client.on('error', () => undefined)
        await client.connect()
        clients.push(client)
        const query = (text: string, values?: unknown[]): Promise<pg.QueryResult> => client.query(text, values)
        return {
          ...leadOver({
            replica: () => replicas[member]!,
            query,
            status: () => client.getTransactionStatus(),
            destroy: () =>
              (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy(),
            changes: () => 0,
          }),
          begin: async (isolation = 'read committed') => void (await query(BEGIN[isolation])),
          append: async (k, v) =>
            void (await query(
              "INSERT INTO lists VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = lists.v || ',' || excluded.v",
              [k, v],
            )),
          insertOnce: async (k, v) => void (await query('INSERT INTO once VALUES ($1, $2)', [k, v])),
          read: async (k) => ((await query('SELECT v FROM lists WHERE k = $1', [k])).rows[0]?.v as string) ?? null,
          commit: async () => (await query('COMMIT')).command,
        }
      },
      async crash(member) {
        await c.servers[member]!.kill()
        await c.servers[member]!.start()
      },
      tamper: async (member, k, v) =>
        void (await ask(
          c.servers[member]!,
          `SET quorum.bypass = 'on'; INSERT INTO lists VALUES ('${k}', '${v}') ON CONFLICT (k) DO UPDATE SET v = excluded.v; DELETE FROM quorum.capture`,
        )),
      settle: sleep,
    })
  } finally {
    await Promise.all(clients.map((client) => client.end().catch(() => undefined)))
    await Promise.all(replicas.map((r) => r.close()))
    for (const s of c.servers)
      for (const { gid } of await ask(s, 'SELECT gid FROM pg_prepared_xacts'))
        await ask(s, `ROLLBACK PREPARED '${String(gid)}'`)
  }
}
