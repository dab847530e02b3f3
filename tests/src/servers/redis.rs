//! A client of redis that sets numbered keys, and looks for all of them afterwards.
//!
//! The image has `appendfsync always`: a key is on the guest's disk before its reply.
//! Spec: Redis serialization protocol, version 2.

use std::io::BufRead;

use super::traffic::{Connection, Service, Session, connect, receive, send};
use crate::HarnessError;

const PORT: u16 = 6379;
/// Keys that are asked for at once.
const BATCH: u64 = 200;

/// Redis with a key for each request.
pub struct Redis;

impl Service for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn prepare(&self) -> Result<(), HarnessError> {
        let mut client = Client::connect()?;
        client.command(&["PING"])?;
        Ok(())
    }

    fn connect(&self, client: usize) -> Result<Box<dyn Session>, HarnessError> {
        let connection = Client::connect()?;
        Ok(Box::new(Writer { client, connection }))
    }

    fn missing(&self, acknowledged: &[u64]) -> Result<u64, HarnessError> {
        let mut connection = Client::connect()?;
        let mut missing = 0;
        for (client, last) in acknowledged.iter().enumerate() {
            let mut first = 1;
            while first <= *last {
                let numbers = first..=(first + BATCH - 1).min(*last);
                missing += connection.missing_keys(client, numbers.clone())?;
                first = numbers.end() + 1;
            }
        }
        Ok(missing)
    }
}

struct Writer {
    client: usize,
    connection: Client,
}

impl Session for Writer {
    fn request(&mut self, number: u64) -> Result<(), HarnessError> {
        let (key, value) = (key(self.client, number), value(number));
        match self.connection.command(&["SET", &key, &value])? {
            Reply::Status(text) if text == "OK" => Ok(()),
            other => Err(unexpected("SET", &other)),
        }
    }
}

fn key(client: usize, number: u64) -> String {
    format!("write:{client}:{number}")
}

fn value(number: u64) -> String {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()
}

fn unexpected(command: &str, reply: &Reply) -> HarnessError {
    HarnessError::Broken(format!("redis answers {command} with {reply:?}"))
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A word such as `OK`.
    Status(String),
    /// A refusal.
    Refusal(String),
    /// A number.
    Number(i64),
    /// Bytes, or that there are none.
    Bytes(Option<Vec<u8>>),
    /// Several answers.
    List(Vec<Reply>),
}

/// A connection to redis.
pub struct Client(Connection);

impl Client {
    /// Connects to the guest's redis.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect() -> Result<Self, HarnessError> {
        connect(PORT).map(Self)
    }

    /// Sends a command and returns its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not one.
    pub fn command(&mut self, words: &[&str]) -> Result<Reply, HarnessError> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        send(&mut self.0, bytes.as_bytes())?;
        self.reply(0)
    }

    fn reply(&mut self, depth: u8) -> Result<Reply, HarnessError> {
        let line = self.line()?;
        let malformed = || HarnessError::Broken(format!("redis answers {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
        let number = || rest.parse::<i64>().map_err(|_| malformed());
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Refusal(rest.to_owned())),
            ":" => Ok(Reply::Number(number()?)),
            "$" => match usize::try_from(number()?) {
                Ok(length) if length < 1 << 20 => {
                    let mut bytes = vec![0; length + 2];
                    receive(&mut self.0, &mut bytes)?;
                    bytes.truncate(length);
                    Ok(Reply::Bytes(Some(bytes)))
                }
                Ok(_) => Err(malformed()),
                Err(_) => Ok(Reply::Bytes(None)),
            },
            "*" if depth < 4 => {
                let replies = (0..number()?).map(|_| self.reply(depth + 1));
                Ok(Reply::List(replies.collect::<Result<_, _>>()?))
            }
            _ => Err(malformed()),
        }
    }

    fn line(&mut self) -> Result<String, HarnessError> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        match read.map_err(HarnessError::host("receive a reply"))? {
            0 => Err(HarnessError::Broken("the connection was closed".to_owned())),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn missing_keys(
        &mut self,
        client: usize,
        numbers: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, HarnessError> {
        let keys: Vec<String> = numbers.clone().map(|number| key(client, number)).collect();
        let mut words = vec!["MGET"];
        words.extend(keys.iter().map(String::as_str));
        let Reply::List(found) = self.command(&words)? else {
            return Err(HarnessError::Broken(
                "redis answers MGET with no list".to_owned(),
            ));
        };
        let right = numbers
            .clone()
            .zip(&found)
            .filter(|(number, found)| **found == Reply::Bytes(Some(value(*number).into_bytes())));
        Ok(keys.len() as u64 - right.count() as u64)
    }
}
