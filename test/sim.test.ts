/**
 * The simulator in `npm test`: three hundred seeds over all kinds of run, the same seed twice, and the mutants
 * nearest to the heart, each of which must be caught.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'chai'
import ts from 'typescript'
import { hunt, patched } from './mutants/hunt.ts'
import { MUTANTS } from './mutants/mutants.ts'
import { RUN_KINDS } from './sim/plan.ts'
import { runSeed } from './sim/search.ts'

const SEEDS = 300
const MUTANT_SEEDS = 1500

async function sim(...args: string[]): Promise<{ out: string; code: number | null }> {
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', new URL('sim/main.ts', import.meta.url).pathname, ...args],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const out: string[] = []
  child.stdout.setEncoding('utf8').on('data', (s: string) => out.push(s))
  const [code] = (await once(child, 'close')) as [number | null]
  return { out: out.join(''), code }
}

describe('simulation', function () {
  this.timeout(300_000)

  it('the same seed gives the same history, another one another', async () => {
    for (const kind of RUN_KINDS) {
      const [a, b, c] = [await runSeed(77, { kind }), await runSeed(77, { kind }), await runSeed(78, { kind })]
      expect([a.hash, a.events, a.simulated_ms], kind).to.deep.equal([b.hash, b.events, b.simulated_ms])
      expect(c.hash, kind).to.not.equal(a.hash)
    }
  })

  it(`${SEEDS} seeds, no violation`, async () => {
    const { out, code } = await sim('--seeds', `1..${SEEDS}`, '--json')
    const figures = JSON.parse(out.trim().split('\n').at(-1)!) as {
      seeds: number
      violations: number
      acknowledged: number
      steps: string[]
      faults: Record<string, number>
    }
    expect([figures.seeds, figures.violations, code], out).to.deep.equal([SEEDS, 0, 0])
    expect(figures.acknowledged, 'something happened').to.be.greaterThan(3 * SEEDS)
    expect(Object.keys(figures.faults).length, 'every kind of fault was struck').to.be.greaterThan(20)
    expect(figures.steps, 'every step was reached').to.include.members([
      'accepted',
      'lead-committed',
      'resolving',
      'promised',
      'decided',
    ])
  })

  for (const mutant of MUTANTS.filter((m) => m.heart)) {
    it(`mutant: ${mutant.name}`, async () =>
      expect(
        await hunt(mutant, mutant.heart ?? 1, MUTANT_SEEDS),
        `${mutant.what}: it survived ${MUTANT_SEEDS} seeds`,
      ).to.not.equal(undefined))
  }

  it('every mutant still fits the code, and is code', () => {
    for (const mutant of MUTANTS)
      for (const [file, text] of patched(mutant)) {
        const { diagnostics } = ts.transpileModule(text, { reportDiagnostics: true })
        if (file.endsWith('.ts'))
          expect(
            diagnostics?.map((d) => d.messageText),
            mutant.name,
          ).deep.equal([])
      }
  })
})
