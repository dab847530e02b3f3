//! A client of PostgreSQL that moves money between accounts and writes each transfer in a ledger,
//! and looks afterwards whether every transfer is there and the balances agree with them.
//!
//! A transfer is one transaction: two accounts and the ledger change together or not at all. The
//! guest's server trusts its network, so there is no password.
//! Spec: PostgreSQL 15 documentation, chapter 55 (frontend/backend protocol, version 3.0).

use std::collections::BTreeSet;

use super::traffic::{Connection, Service, Session, connect, receive, send};
use crate::HarnessError;
use crate::random::Random;

const PORT: u16 = 5432;
/// Version 3.0 of the protocol.
const VERSION: u32 = 3 << 16;
/// Accounts there are.
const ACCOUNTS: u64 = 64;
/// Longest message taken.
const MESSAGE_LIMIT: usize = 16 << 20;

/// PostgreSQL with a transfer for each request.
pub struct Postgres;

impl Service for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn prepare(&self) -> Result<(), HarnessError> {
        Client::connect()?.query(&format!(
            "BEGIN;
             DROP TABLE IF EXISTS ledger, accounts;
             CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE ledger (client int, number bigint, giver int NOT NULL,
                                  taker int NOT NULL, amount bigint NOT NULL,
                                  PRIMARY KEY (client, number));
             INSERT INTO accounts SELECT id, 0 FROM generate_series(0, {}) AS id;
             COMMIT",
            ACCOUNTS - 1
        ))?;
        Ok(())
    }

    fn connect(&self, client: usize) -> Result<Box<dyn Session>, HarnessError> {
        let connection = Client::connect()?;
        Ok(Box::new(Teller { client, connection }))
    }

    fn missing(&self, acknowledged: &[u64]) -> Result<u64, HarnessError> {
        let mut connection = Client::connect()?;
        let wrong = connection.query(
            "WITH moved AS (
                 SELECT giver AS id, -amount AS amount FROM ledger
                 UNION ALL SELECT taker, amount FROM ledger),
             sums AS (SELECT id, sum(amount) AS sum FROM moved GROUP BY id)
             SELECT count(*) FROM accounts LEFT JOIN sums USING (id)
             WHERE balance <> coalesce(sum, 0)",
        )?;
        if wrong != [["0"]] {
            let text = format!("balances contradict the ledger: {wrong:?} accounts");
            return Err(HarnessError::Broken(text));
        }
        let sum = connection.query("SELECT sum(balance) FROM accounts")?;
        if sum != [["0"]] {
            let text = format!("transfers have made money: the balances add up to {sum:?}");
            return Err(HarnessError::Broken(text));
        }
        let mut missing = 0;
        for (client, last) in acknowledged.iter().enumerate() {
            let select = format!("SELECT number FROM ledger WHERE client = {client}");
            let rows = connection.query(&select)?;
            let numbers = rows.iter().flatten().map(|text| text.parse::<u64>());
            let found: BTreeSet<u64> = numbers.collect::<Result<_, _>>().map_err(|error| {
                HarnessError::Broken(format!("a number of client {client}: {error}"))
            })?;
            missing += (1..=*last).filter(|number| !found.contains(number)).count() as u64;
        }
        Ok(missing)
    }
}

struct Teller {
    client: usize,
    connection: Client,
}

impl Session for Teller {
    fn request(&mut self, number: u64) -> Result<(), HarnessError> {
        let client = self.client;
        let mut random = Random::new((client as u64) << 48 | number);
        let (giver, amount) = (random.number() % ACCOUNTS, random.number() % 1000);
        let taker = (giver + 1 + random.number() % (ACCOUNTS - 1)) % ACCOUNTS;
        // The lower account comes first, so that no two transfers wait for each other.
        let mut changes = [(giver, -(amount as i64)), (taker, amount as i64)];
        changes.sort_unstable();
        let [first, second] = changes.map(|(id, change)| {
            format!("UPDATE accounts SET balance = balance + ({change}) WHERE id = {id};")
        });
        self.connection.query(&format!(
            "BEGIN; {first} {second}
             INSERT INTO ledger VALUES ({client}, {number}, {giver}, {taker}, {amount}); COMMIT"
        ))?;
        Ok(())
    }
}

/// A connection to PostgreSQL.
pub struct Client(Connection);

impl Client {
    /// Connects to the guest's server as its superuser.
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    pub fn connect() -> Result<Self, HarnessError> {
        let mut client = Self(connect(PORT)?);
        let mut body = VERSION.to_be_bytes().to_vec();
        body.extend(b"user\0postgres\0database\0postgres\0\0");
        let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
        message.extend(body);
        send(&mut client.0, &message)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Runs commands; returns the rows they give, as text. A value that is NULL is empty.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses one of them.
    pub fn query(&mut self, commands: &str) -> Result<Vec<Vec<String>>, HarnessError> {
        let mut message = vec![b'Q'];
        message.extend((commands.len() as u32 + 5).to_be_bytes());
        message.extend(commands.as_bytes());
        message.push(0);
        send(&mut self.0, &message)?;
        self.until_ready()
    }

    /// Reads messages until the server is ready for the next query.
    fn until_ready(&mut self) -> Result<Vec<Vec<String>>, HarnessError> {
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'D' => rows.push(row(&body)?),
                b'E' => refusal = refusal.or(Some(error_text(&body))),
                // Anything but "no password" would be a question that this does not answer.
                b'R' if body != [0; 4] => {
                    let text = "postgres asks for a password".to_owned();
                    return Err(HarnessError::Broken(text));
                }
                b'Z' => break,
                _ => {}
            }
        }
        match refusal {
            Some(text) => Err(HarnessError::Broken(format!("postgres refuses: {text}"))),
            None => Ok(rows),
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), HarnessError> {
        let mut head = [0; 5];
        receive(&mut self.0, &mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let length = length
            .checked_sub(4)
            .filter(|length| *length <= MESSAGE_LIMIT);
        let length = length.ok_or_else(|| malformed("the length of a message"))?;
        let mut body = vec![0; length];
        receive(&mut self.0, &mut body)?;
        Ok((head[0], body))
    }
}

fn malformed(what: &str) -> HarnessError {
    HarnessError::Broken(format!("postgres: {what} is malformed"))
}

/// The columns of a row.
fn row(body: &[u8]) -> Result<Vec<String>, HarnessError> {
    let broken = || malformed("a row");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(broken)?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        // -1 stands for NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = after.split_at_checked(length).ok_or_else(broken)?;
        columns.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Ok(columns)
}

/// The message among the fields of an error.
fn error_text(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let message = fields.find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(message.unwrap_or(body)).into_owned()
}
