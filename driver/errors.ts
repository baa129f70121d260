/**
 * The error family. Every error answers two questions: did it happen (`outcome`), and may I do it again
 * (`retryable`)? A user's own SQL error passes through untouched; these are ours only. `code` is a SQLSTATE, so
 * that existing retry loops work: 40001 conflict, 08007 outcome unknown, 08001 no quorum, 0A000 not supported.
 * (docs/protocol.md, section 11)
 */
export type Outcome = 'committed' | 'not-committed' | 'unknown'

export interface ErrorDetails {
  code: string
  outcome: Outcome
  retryable: boolean
  gid?: string | undefined
  cause?: unknown
  hint?: string
}

export class QuorumError extends Error {
  override readonly name = 'QuorumError'
  readonly code: string
  readonly outcome: Outcome
  readonly retryable: boolean
  readonly gid: string | undefined
  readonly hint: string | undefined

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = details.code
    this.outcome = details.outcome
    this.retryable = details.retryable
    this.gid = details.gid
    this.hint = details.hint
  }
}

export const conflict = (message: string, gid?: string, cause?: unknown): QuorumError =>
  new QuorumError(message, { code: '40001', outcome: 'not-committed', retryable: true, gid, cause })

export const unknownOutcome = (message: string, gid: string, cause?: unknown): QuorumError =>
  new QuorumError(message, {
    code: '08007',
    outcome: 'unknown',
    retryable: false,
    gid,
    cause,
    hint: 'Ask pool.outcomeOf(gid) later; do not repeat the transaction before it has answered.',
  })

export const noQuorum = (message: string, cause?: unknown): QuorumError =>
  new QuorumError(message, { code: '08001', outcome: 'not-committed', retryable: true, cause })

export const leadLost = (message: string, cause?: unknown): QuorumError =>
  new QuorumError(message, { code: '08006', outcome: 'not-committed', retryable: true, cause })

export const notSupported = (message: string, hint?: string): QuorumError =>
  new QuorumError(message, {
    code: '0A000',
    outcome: 'not-committed',
    retryable: false,
    ...(hint === undefined ? {} : { hint }),
  })

export const badInput = (message: string): QuorumError =>
  new QuorumError(message, { code: '22023', outcome: 'not-committed', retryable: false })

export function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string'
    ? error.code
    : ''
}

export function sentenceOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(sentenceOf).join('; ')
  return error instanceof Error ? error.message || codeOf(error) || error.name : String(error)
}
