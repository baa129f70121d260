/**
 * Every step of a transaction × every fault, once: `npm run faults`, or one cell with `-- --only sealed,lead-kill`
 * (either part may be `*`). Ends with 1 if a cell fails, or if a control is not caught.
 */
import { appendFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { STEPS, type Step } from '../../driver/runtime.ts'
import { cell, type Cell, type Tamper } from './cell.ts'
import { controls } from './controls.ts'
import { FAULTS, type Fault } from './faults.ts'
import { calm, Owner, world, type World } from './world.ts'

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '*,*' },
    log: { type: 'string' },
    controls: { type: 'boolean', default: true },
  },
  allowNegative: true,
})
const [onlyStep = '*', onlyFault = '*'] = values.only.split(',')
const steps = STEPS.filter((s) => onlyStep === '*' || s === onlyStep)
const faults = FAULTS.filter((f) => onlyFault === '*' || f.name === onlyFault)
if (steps.length === 0 || faults.length === 0)
  throw new Error(`--only step,fault: ${STEPS.join(' ')} × ${FAULTS.map((f) => f.name).join(' ')}`)

const started = performance.now()
let w: World | undefined
let owner = new Owner()
const leave: Promise<unknown>[] = []

async function run(step: Step, fault: Fault, tamper?: Tamper): Promise<Cell> {
  for (let attempt = 1; ; attempt++) {
    w ??= await world()
    if (owner.exit !== undefined) owner = new Owner()
    await calm(w)
    const result = await cell(w, owner, step, fault, tamper)
    if (owner.exit !== undefined) owner = new Owner() // starts while the next cell is prepared
    if (result.destroyed || (result.failures.length > 0 && result.reached)) {
      // What failed must not fail the next cell too.
      leave.push(w.destroy())
      w = undefined
    }
    // A bystander may end the transaction before its owner comes to a resolver's step.
    if (result.reached || attempt === 3) return result
  }
}

const cells: Cell[] = []
for (const step of steps) {
  for (const fault of faults) {
    if (fault.applies && !fault.applies(step)) continue
    const from = performance.now()
    const result = await run(step, fault)
    cells.push(result)
    const line = `${step},${fault.name}: ${result.failures.length > 0 ? 'FAIL' : 'ok'} ${result.answer} pause ${result.pauses?.join('/')} doubt ${result.doubt_ms} drain ${result.drain_ms} took ${Math.round(performance.now() - from)}`
    if (values.log) appendFileSync(values.log, `${line}\n`)
    if (process.stdout.isTTY || faults.length * steps.length === 1) console.log(line)
    for (const f of result.failures) {
      if (values.log) appendFileSync(values.log, `    ${f}\n`)
      console.log(
        `FAIL ${step},${fault.name} [${result.answer}]: ${f}\n     replay: npm run faults -- --only ${step},${fault.name}`,
      )
    }
  }
}

// Rows steps, columns faults; as many columns as fit beside each other.
const text = (c: Cell | undefined): string =>
  c ? (c.failures.length > 0 ? 'FAIL' : `ok ${c.pauses?.[0]}/${c.pauses?.[1]}`) : '–'
const WIDTH = 20
const across = Math.floor((118 - 16) / WIDTH)
console.log('\nok <longest pause of conflicting writes>/<of others>, ms; – the message has gone by then')
for (let i = 0; i < faults.length; i += across) {
  const group = faults.slice(i, i + across)
  console.log(`\n${''.padEnd(16)}${group.map((f) => f.name.padEnd(WIDTH)).join('')}`)
  for (const step of steps)
    console.log(
      step.padEnd(16) +
        group.map((f) => text(cells.find((c) => c.step === step && c.fault === f.name)).padEnd(WIDTH)).join(''),
    )
}

const caught = values.controls ? await controls(run) : []
for (const c of caught) console.log(`control: ${c.name}: ${c.caught ? 'caught' : 'NOT CAUGHT'} (${c.said})`)

await Promise.all([...leave, w?.destroy(), owner.kill()])
const failed = cells.filter((c) => c.failures.length > 0)
const most = (of: (c: Cell) => number): number => Math.max(0, ...cells.map(of))
console.log(
  JSON.stringify({
    cells: cells.length,
    failed: failed.map((c) => `${c.step},${c.fault}`),
    controls: caught.length,
    controls_missed: caught.filter((c) => !c.caught).length,
    acknowledged: cells.filter((c) => c.answer === 'yes').length,
    refused: cells.filter((c) => c.answer?.startsWith('no')).length,
    unknown: cells.filter((c) => c.answer === 'unknown').length,
    worst_pause_conflicting_ms: most((c) => c.pauses?.[0] ?? 0),
    worst_pause_others_ms: most((c) => c.pauses?.[1] ?? 0),
    worst_doubt_ms: most((c) => c.doubt_ms),
    worst_drain_ms: most((c) => c.drain_ms ?? 0),
    seconds: Math.round((performance.now() - started) / 1000),
  }),
)
process.exitCode = failed.length > 0 || caught.some((c) => !c.caught) ? 1 : 0
