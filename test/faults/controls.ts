/** Cells that are wrong on purpose, each in another way. A matrix that lets one pass proves nothing. */
import type { Step } from '../../driver/runtime.ts'
import { ask } from '../servers.ts'
import type { Cell, Tamper } from './cell.ts'
import { FAULTS, type Fault } from './faults.ts'

export interface Control {
  name: string
  caught: boolean
  said: string
}
const BYPASS = "SET quorum.bypass = 'on';"
const fault = (name: string): Fault => FAULTS.find((f) => f.name === name)!

/** Its COMMIT has been answered by then: the rule can hit nothing. */
const tooLate: Fault = {
  name: 'claimed-only',
  strike(s) {
    const rule = s.proxies[s.lead]!.add({
      direction: 'to-client',
      message: 'C',
      match: /^COMMIT$/,
      nth: 1,
      action: 'lose-reply',
    })
    return { struck: () => rule.hits === 1 }
  },
}

const CONTROLS: [name: string, step: Step, fault: Fault, says: RegExp, tamper: Tamper][] = [
  [
    'a row changed behind the driver on one server',
    'told',
    fault('none'),
    /servers differ/,
    {
      beforeChecks: async (s) =>
        void (await ask(s.servers[1]!, `${BYPASS} UPDATE accounts SET balance = 7 WHERE id = 9`)),
    },
  ],
  [
    'an acknowledged row taken away on all servers',
    'told',
    fault('none'),
    /acknowledged, but not there/,
    {
      beforeChecks: async (s, id) =>
        void (await Promise.all(s.servers.map((x) => ask(x, `${BYPASS} DELETE FROM entries WHERE id = '${id}'`)))),
    },
  ],
  [
    'a write counted twice on all servers',
    'told',
    fault('none'),
    /balances on/,
    {
      beforeChecks: async (s) =>
        void (await Promise.all(
          s.servers.map((x) => ask(x, `${BYPASS} UPDATE accounts SET balance = balance + 1 WHERE id = 2`)),
        )),
    },
  ],
  [
    'a refused row put in on all servers',
    'worked',
    fault('lead-reset'),
    /a definite error, but there/,
    {
      beforeChecks: async (s, id) =>
        void (await Promise.all(s.servers.map((x) => ask(x, `${BYPASS} INSERT INTO entries VALUES ('${id}')`)))),
    },
  ],
  [
    'a prepared transaction that nobody ends',
    'told',
    fault('none'),
    /still prepared/,
    {
      whenStruck: async (s, owner) =>
        void (await ask(s.servers[1]!, `BEGIN; CREATE TABLE x (); PREPARE TRANSACTION 'foreign_${owner}_1'`)),
    },
  ],
  ['a fault that is claimed and not struck', 'told', tooLate, /not struck/, {}],
]

export async function controls(run: (step: Step, fault: Fault, tamper?: Tamper) => Promise<Cell>): Promise<Control[]> {
  const results: Control[] = []
  for (const [name, step, it, says, tamper] of CONTROLS) {
    const { failures } = await run(step, it, tamper)
    results.push({ name, caught: failures.some((f) => says.test(f)), said: (failures[0] ?? 'nothing').slice(0, 60) })
  }
  return results
}
