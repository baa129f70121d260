/**
 * How a server that is to be built anew stops being a member (docs/decisions/0005): what it has promised is not
 * forgotten.
 */
import type pg from 'pg'
import type { Replica } from '../replica/replica.ts'
import { newId } from '../runtime.ts'
import { install, transaction, type Facts } from '../schema/install.ts'
import { count } from './terminal.ts'

/**
 * Before anything is dropped. First it takes no part any more, durably and for those who are connected too; then
 * whatever it may have voted for is settled among the others, so that dropping it loses nobody's only copy; last it
 * must hold nothing that they do not. If that fails it is what it was: it has forgotten nothing.
 */
export async function takeVote(
  client: pg.Client,
  target: Replica,
  facts: Facts,
  others: readonly Replica[],
  settle: (note: string) => Promise<void>,
): Promise<void> {
  if (facts.cluster === null) return
  await transaction(client, () => install(client, facts.cluster ?? '', facts.member ?? 0, facts.members ?? 0))
  await client.query('UPDATE quorum.self SET building = true')
  try {
    const { rows } = await client.query<{ pid: number }>(`
      SELECT pid FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`)
    const pids = rows.map((r) => r.pid)
    await client.query('SELECT pg_terminate_backend(p, 10000) FROM unnest($1::int[]) p', [pids])
    const left = (await client.query('SELECT FROM pg_stat_activity WHERE pid = ANY ($1::int[])', [pids])).rowCount ?? 0
    if (left > 0) throw new Error(`${target.name}: ${count(left, 'connection')} could not be ended`)
    await settle(newId())
    const only = await onlyHere(target, others)
    if (only > 0)
      throw new Error(
        `${target.name} holds ${count(only, 'changeset')} that none of the others has, so it is not wiped: ` +
          'find out first which of the replicas lost data. ' +
          'If it is this one that is wrong, give an empty server in its place',
      )
  } catch (error) {
    if (!facts.building) await client.query('UPDATE quorum.self SET building = false')
    throw error
  }
  for (const { gid } of (
    await client.query<{ gid: string }>(
      "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'quorum\\_%'",
    )
  ).rows)
    await client.query(`ROLLBACK PREPARED '${gid}'`)
}

async function onlyHere(target: Replica, others: readonly Replica[]): Promise<number> {
  const gids = new Set<string>()
  for (const other of others) for (const gid of await target.beyond(await other.versions(), 1000)) gids.add(gid)
  for (const other of others) for (const gid of await other.present([...gids])) gids.delete(gid)
  return gids.size
}
