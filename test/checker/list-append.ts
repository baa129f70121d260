/**
 * Elle's list-append checker (Kingsbury & Alvaro, "Elle: Inferring Isolation Anomalies from Experimental
 * Observations", VLDB 2020), with Adya's names (MIT thesis, 1999). An anomaly means that no strictly serial
 * execution explains the history; no anomaly means that one does: without a cycle any topological order is one.
 * What no read saw may still have gone wrong, so generators read often, retire keys before their lists grow long,
 * and end with checkFinal.
 */
import { reportCycles } from './cycles.ts'
import { dependencies } from './dependencies.ts'
import { type Anomaly, Findings, type Transaction } from './history.ts'
import { Observer } from './observe.ts'

export { checkFinal } from './final.ts'

/** [] = strict-serializable as far as inferable; without realtime: serializable. */
export function checkListAppend(
  history: readonly Transaction[],
  { realtime = true }: { realtime?: boolean } = {},
): Anomaly[] {
  const findings = new Findings()
  const observation = new Observer(history, findings).observe()
  reportCycles(dependencies(history, observation, realtime), history, observation.keys, findings)
  return findings.anomalies
}
