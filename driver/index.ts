/** The public surface: a Pool and a Client that are pg's, the errors, and the types of their options. */
export {
  Pool,
  type PoolOptions,
  type QuorumPoolClient,
  type ReadConfig,
  type Told,
  type TransactionOptions,
} from './pool/pool.ts'
export { Client, type ClientOptions } from './pool/client.ts'
export { QuorumError, type Outcome } from './errors.ts'
export type { Lock, LockMode } from './protocol/locks.ts'
export type { DialOptions, QuorumOptions, ReplicaConfig } from './config.ts'
export type { Quorum, Reads, Recovering } from './protocol/dial.ts'
