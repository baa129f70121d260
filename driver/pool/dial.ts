/** The dial's options made into the cluster's, and what all members agree on about it. */
import type { DialOptions, ReplicaConfig } from '../config.ts'
import { badInput } from '../errors.ts'
import {
  checkReads,
  checkRecovering,
  quorumFrom,
  quorumOf,
  readsFrom,
  type Dial,
  type Quorum,
} from '../protocol/dial.ts'
import { SQL } from '../replica/statements.ts'
import type { Place } from '../transaction/cluster.ts'
import type { Pool } from './pool.ts'

export const dialOf =
  (options: DialOptions) =>
  (members: number): Dial => {
    const { PG_QUORUM_QUORUM: quorum, PG_QUORUM_READS: reads } = process.env
    const position = quorumOf(options.quorum ?? (quorum ? quorumFrom(quorum) : 'majority'), members)
    return {
      ...position,
      reads: checkReads(options.reads ?? (reads ? readsFrom(reads) : position.reads)),
      recovering: checkRecovering(options.recovering ?? 'refuse'),
    }
  }

export function placesOf(configs: readonly ReplicaConfig[], zone: string | undefined): Place[] {
  return configs.map(({ zone: theirs, weight = 1 }) => {
    if (typeof weight !== 'number' || !(weight >= 0) || !Number.isFinite(weight))
      throw badInput(`a replica's weight is a number from 0, not ${JSON.stringify(weight)}`)
    return { near: zone === undefined || theirs === zone, weight }
  })
}

/**
 * On how many members every write is from now on, whoever makes it: as many as this position's W. Strong reads then
 * ask N − W + 1. It is a transaction under everything, on as many members as before and as it will be. lost: how
 * many of them are destroyed, and come back as clones only: it does without these.
 */
export async function agree(pool: Pool, quorum: Quorum, lost = 0): Promise<void> {
  const { write } = quorumOf(quorum, pool.cluster.replicas.length)
  await pool.transaction({ locks: ['*'] }, async (tx) => {
    const before = (await tx.query<{ r: number }>(SQL.writeFloor)).rows[0]?.r ?? 0
    tx.mustReach(Math.max(before - lost, write))
    await tx.query(`SELECT quorum.set_write_floor(${write})`)
  })
}
