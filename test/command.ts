/** The command line as people meet it: a child process, its output, its exit code. */
import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface Ended { code: number | null; out: string; err: string; ms: number }
const ROOT = fileURLToPath(new URL('..', import.meta.url))

export function launch(args: string[], replicas: string): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', 'driver/cli/main.ts', ...args], { cwd: ROOT, env: { ...process.env, PG_QUORUM_REPLICAS: replicas }, stdio: ['ignore', 'pipe', 'pipe'] })
}
export function ended(child: ChildProcess): Promise<Ended> {
  const from = performance.now()
  let [out, err] = ['', '']
  for (const [stream, add] of [[child.stdout, (d: Buffer) => (out += d.toString())], [child.stderr, (d: Buffer) => (err += d.toString())]] as const) stream?.on('data', add)
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out, err, ms: performance.now() - from })))
}
