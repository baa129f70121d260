/** The command line in a child process, as people and scripts meet it. */
import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface Ended {
  code: number | null
  out: string
  err: string
  ms: number
}
export const ROOT = fileURLToPath(new URL('..', import.meta.url))

export function launch(args: string[], replicas: string, cwd = ROOT): ChildProcess {
  return spawn(
    process.execPath,
    [
      '--import',
      new URL('../node_modules/tsx/dist/esm/index.mjs', import.meta.url).href,
      `${ROOT}driver/cli/main.ts`,
      ...args,
    ],
    { cwd, env: { ...process.env, PG_QUORUM_REPLICAS: replicas }, stdio: ['ignore', 'pipe', 'pipe'] },
  )
}

export function ended(child: ChildProcess): Promise<Ended> {
  const from = performance.now()
  let [out, err] = ['', '']
  child.stdout?.on('data', (d: Buffer) => (out += d.toString()))
  child.stderr?.on('data', (d: Buffer) => (err += d.toString()))
  return new Promise((resolve) =>
    child.once('close', (code) => resolve({ code, out, err, ms: performance.now() - from })),
  )
}

/** Its output with broken lines joined again. */
export const flat = (r: Ended): string => r.out.replace(/\n {2,}(?!PostgreSQL)/g, ' ')

export const cli = (args: string[], replicas: readonly string[]): Promise<Ended> =>
  ended(launch(args, replicas.join(',')))
