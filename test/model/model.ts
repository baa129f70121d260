/**
 * npm run model [-- --quick | --long | --only name]: the protocol's models (docs/model), each searched by spin, and
 * a table of what came out. Ends with 1 if a model has an error, a search was not complete, or a mutant was not
 * caught; with 2 if spin or a C compiler is missing.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CHECKS, DEEP, type Check } from './checks.ts'

const MODELS = join(import.meta.dirname, '../../docs/model')
const MEMORY_MB = 7000
const SECONDS = { holds: 900, error: 120, bitstate: 600 }
/**
 * Deep enough for every full search. A mutant's error should be shown by a short trail: its search is shallow first
 * (counted in statements, some ten a step).
 */
const DEPTHS = { holds: [100_000], error: [150, 1000], bitstate: [100_000] }

interface Result {
  ok: boolean
  result: string
  states: number
  depth: number
  seconds: number
  mb: number
}

const { values } = parseArgs({
  options: { quick: { type: 'boolean' }, long: { type: 'boolean' }, only: { type: 'string' } },
})
const chosen = CHECKS.filter((c) =>
  values.only === undefined ? (!values.quick || c.quick) && (!c.long || values.long) : c.name.includes(values.only),
)

const works = (command: string, argument: string): boolean =>
  spawnSync(command, [argument], { stdio: 'ignore' }).status === 0
if (!works('spin', '-V')) stop('spin is missing: apt-get install spin')
const compiler = ['gcc', 'cc', 'clang'].find((c) => works(c, '--version'))
if (compiler === undefined) stop('a C compiler is missing: apt-get install gcc')
if (chosen.length === 0) stop(`no check is called ${values.only}. There are: ${CHECKS.map((c) => c.name).join(', ')}`)

function stop(why: string): never {
  console.error(why)
  process.exit(2)
}

/** To the whole group: the shell and what it runs. */
function signal(child: ChildProcess, name: NodeJS.Signals): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, name)
  } catch {
    /* ended already */
  }
}

function run(
  folder: string,
  command: string,
  args: readonly string[],
  limit_s: number,
): Promise<{ out: string; status: number | null; late: boolean }> {
  return new Promise((resolve) => {
    // By a shell of its own group: its `times` knows the processor seconds, which a busy machine does not stretch.
    const child = spawn('sh', ['-c', 'trap : INT; "$@"; status=$?; times; exit $status', 'sh', command, ...args], {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    let out = ''
    let late = false
    const timer = setTimeout(() => {
      late = true
      signal(child, 'SIGINT') // pan then still prints what it has
      setTimeout(() => signal(child, 'SIGKILL'), 5000).unref()
    }, limit_s * 1000)
    child.stdout.on('data', (d: Buffer) => (out += d.toString()))
    child.stderr.on('data', (d: Buffer) => (out += d.toString()))
    child.on('error', (error) => (out += String(error)))
    child.on('close', (status) => {
      clearTimeout(timer)
      resolve({ out, status, late })
    })
  })
}

/**
 * SAFETY: no liveness is asked for. NOREDUCE: one process, so there is nothing to reduce. -o3: no merging of
 * statements, or else those never reached would hide.
 */
async function check(c: Check): Promise<Result> {
  const failed = (result: string): Result => ({ ok: false, result, states: 0, depth: 0, seconds: 0, mb: 0 })
  const folder = mkdtempSync(join(tmpdir(), 'pg-quorum-model-'))
  try {
    copyFileSync(join(MODELS, `${c.file}.pml`), join(folder, 'model.pml'))
    const made = await run(
      folder,
      'spin',
      [...(c.expect === 'holds' ? ['-o3'] : []), '-a', ...c.defines.split(' '), 'model.pml'],
      60,
    )
    if (made.status !== 0) return failed(`spin: ${made.out.trim()}`)
    const built = await run(
      folder,
      compiler!,
      [
        c.expect === 'error' ? '-O1' : '-O2',
        '-w',
        '-DSAFETY',
        '-DNOREDUCE',
        `-DMEMLIM=${MEMORY_MB}`,
        ...(c.expect === 'bitstate' ? ['-DBITSTATE'] : []),
        '-o',
        'pan',
        'pan.c',
      ],
      120,
    )
    if (built.status !== 0) return failed(`${compiler}: ${built.out.trim().slice(0, 300)}`)
    let result = failed('not run')
    for (const depth of DEPTHS[c.expect].slice(DEEP.test(c.name) ? 1 : 0)) {
      const { out, late } = await run(
        folder,
        './pan',
        [`-m${depth}`, ...(c.expect === 'bitstate' ? ['-w34', '-k3'] : ['-w25'])],
        SECONDS[c.expect],
      )
      result = judge(c, out, late)
      if (result.ok) break
    }
    return result
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The last line of `times`: what the children took, as 0m0.00s 0m0.00s. */
function processor(out: string): number {
  const times = [...out.matchAll(/(\d+)m([\d.]+)s/g)].slice(-2)
  return times.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0)
}

function judge(c: Check, out: string, late: boolean): Result {
  const number = (pattern: RegExp): number => Number(pattern.exec(out)?.[1] ?? 0)
  const numbers = {
    states: number(/(\d\S*) states, stored/),
    depth: number(/\(at depth (\d+)\)/) || number(/depth reached (\d+)/),
    seconds: processor(out),
    mb: Math.round(number(/([\d.]+)\s+total actual memory/)),
  }
  const errors = /errors: (\d+)/.exec(out)?.[1]
  const violated = /pan:1: (assertion violated|invalid end state)/.test(out)
  const complete =
    !late &&
    errors !== undefined &&
    !/Search not completed|max search depth too small|out of memory|reached limit/i.test(out)
  // Every line of a model must have been reached: a step that can never be taken would make any search look good.
  const unreached = [...out.matchAll(/model\.pml:\d+, state \d+, "(.*)"/g)]
    .map((m) => m[1]!)
    .filter(
      (s) =>
        s !== '-end-' &&
        !/^(r\[\d\]|x) = |^assert/.test(s) &&
        !(c.file === 'shared' && /^(decA|dec\[\d\]|mark\[.*) = /.test(s)),
    )
  if (c.expect === 'error')
    return {
      ...numbers,
      ok: violated,
      result: violated ? 'caught' : complete ? 'NOT CAUGHT' : 'NOT CAUGHT within the depth, memory or time',
    }
  if (violated || errors !== '0')
    return { ...numbers, ok: false, result: violated ? 'ERROR FOUND' : `NOT COMPLETE: ${out.trim().slice(0, 200)}` }
  if (c.expect === 'bitstate')
    return {
      ...numbers,
      ok: true,
      result: late ? 'no error so far (bitstate, stopped by time)' : 'no error (bitstate)',
    }
  if (!complete) return { ...numbers, ok: false, result: 'NOT COMPLETE' }
  if (unreached.length > 0)
    return { ...numbers, ok: false, result: `NEVER REACHED: ${unreached.slice(0, 3).join(' | ')}` }
  return { ...numbers, ok: true, result: 'holds' }
}

let deviations = 0
let total = 0
console.log(
  `${'check'.padEnd(24)}${'result'.padEnd(12)}${'states'.padStart(12)}${'depth'.padStart(7)}${'seconds'.padStart(9)}${'MB'.padStart(7)}  what`,
)
for (const c of chosen) {
  const r = await check(c)
  if (!r.ok) deviations++
  total += r.seconds
  console.log(
    `${c.name.padEnd(24)}${r.result.padEnd(12)}${r.states.toLocaleString('en').padStart(12)}${String(r.depth).padStart(7)}${r.seconds.toFixed(1).padStart(9)}${String(r.mb).padStart(7)}  ${c.says}`,
  )
}
console.log(
  deviations === 0
    ? `\nAll ${chosen.length} as expected: full searches hold, broken variants are caught. ${total.toFixed(0)} processor seconds, compiling not counted.`
    : `\n${deviations} of ${chosen.length} deviate.`,
)
process.exitCode = deviations === 0 ? 0 : 1
