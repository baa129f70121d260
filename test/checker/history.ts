/**
 * What a checker is given and what it answers. The vocabulary is Elle's (Kingsbury & Alvaro, VLDB 2020) and Adya's
 * (MIT thesis, 1999).
 */

/** One micro-operation: append v to list k, or read list k (null: the answer was never seen). */
export type Mop = readonly ['append', string, number] | readonly ['r', string, readonly number[] | null]

export interface Transaction {
  readonly id: number
  readonly process: string
  /** ok: acknowledged. fail: definitely did not happen. info: unknown. */
  readonly type: 'ok' | 'fail' | 'info'
  readonly mops: readonly Mop[]
  /** Any monotonic clock shared by all processes. An info's end is ignored (it may take effect at any later time). */
  readonly start: number
  readonly end: number
}

/** Runs transactions of pg-quorum, and writes down what they were told and when. */
export function recorder(history: Transaction[]) {
  return async (process: string, mops: Mop[], work: () => Promise<unknown>): Promise<void> => {
    const id = history.length
    const begun: Transaction = { id, process, type: 'info', mops, start: performance.now(), end: Infinity }
    history.push(begun)
    const type = await work().then(
      () => 'ok' as const,
      (error: { outcome?: string }) => (error.outcome === 'not-committed' ? 'fail' : 'info'),
    )
    history[id] = { ...begun, type, end: performance.now() }
  }
}

export interface Anomaly {
  readonly kind: string
  readonly message: string
  readonly transactions: readonly number[]
}

/** A thoroughly broken history has as many anomalies as transactions; nobody reads the thousandth of a kind. */
const ENOUGH = 100

export class Findings {
  readonly anomalies: Anomaly[] = []
  private readonly counts = new Map<string, number>()

  add(kind: string, message: string, transactions: readonly Transaction[]): void {
    const count = (this.counts.get(kind) ?? 0) + 1
    this.counts.set(kind, count)
    if (count <= ENOUGH) this.anomalies.push({ kind, message, transactions: transactions.map((t) => t.id) })
  }
}
