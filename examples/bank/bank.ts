/**
 * The bank itself, and all of the demo that a user of pg-quorum would write: its schema, made through the Pool as
 * any statement, and one transfer under declared row locks. Nothing here knows that there are three servers, or
 * that some of them die.
 */
import { randomInt } from 'node:crypto'
import type { Pool } from '../../driver/index.ts'

export const ACCOUNTS = 1000
export const OPENING_BALANCE = 1000
export const TOTAL = ACCOUNTS * OPENING_BALANCE

export async function openBank(pool: Pool): Promise<void> {
  await pool.query('CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))')
  await pool.query(`CREATE TABLE history (id uuid PRIMARY KEY, source int NOT NULL REFERENCES accounts, target int NOT NULL REFERENCES accounts,
    amount bigint NOT NULL, client text NOT NULL)`)
  await pool.query(`INSERT INTO accounts SELECT i, ${OPENING_BALANCE} FROM generate_series(1, ${ACCOUNTS}) i`)
}

/**
 * The id names the transfer for good: the pool repeats only what certainly did not happen, so the same id can never
 * be paid twice.
 */
export async function transfer(pool: Pool, id: string, client: string): Promise<void> {
  const source = randomInt(1, ACCOUNTS + 1)
  const target = ((source + randomInt(1, ACCOUNTS) - 1) % ACCOUNTS) + 1
  const amount = randomInt(1, 50)
  await pool.transaction({ locks: [`accounts/${source}`, `accounts/${target}`, `history/${id}`] }, async (tx) => {
    await tx.query('UPDATE accounts SET balance = balance - $1 WHERE id = $2', [amount, source])
    await tx.query('UPDATE accounts SET balance = balance + $1 WHERE id = $2', [amount, target])
    await tx.query('INSERT INTO history VALUES ($1, $2, $3, $4, $5)', [id, source, target, amount, client])
  })
}
