/**
 * The bank of Jepsen: transfers move money and make none, so under snapshot isolation and above every sum over all
 * accounts is the same.
 */
import { type Anomaly } from './history.ts'

/** `transactions` of an anomaly: the index of the read. */
export function checkBank(
  reads: readonly { process: string; start: number; end: number; total: number }[],
  expectedTotal: number,
): Anomaly[] {
  return reads.flatMap(({ process, start, end, total }, i) =>
    total === expectedTotal
      ? []
      : [
          {
            kind: 'wrong-total',
            message: `${process} read ${total} instead of ${expectedTotal} between ${start} and ${end}`,
            transactions: [i],
          },
        ],
  )
}
