//! Descriptors that go beside the bytes of a connection, which only a Unix socket can carry.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{Channel, ChannelError};
use crate::vm::Stream;

impl Channel {
    fn unix(&self) -> Result<&UnixStream, ChannelError> {
        match &self.stream {
            Stream::Unix(unix) => Ok(unix),
            Stream::Tcp(_) => Err(ChannelError::Host(io::Error::new(
                io::ErrorKind::Unsupported,
                "only a Unix socket carries descriptors",
            ))),
        }
    }

    /// Sends a few bytes, in one message with `descriptor`.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub fn write_with(
        &mut self,
        bytes: &[u8],
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), ChannelError> {
        self.torn = true;
        let begun = Instant::now();
        loop {
            let descriptors = [descriptor];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let parts = [IoSlice::new(bytes)];
            match sendmsg(self.unix()?, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == bytes.len() => break,
                Ok(_) => return Err(ChannelError::Host(io::ErrorKind::WriteZero.into())),
                Err(error) => self.bear(error.into(), begun)?,
            }
        }
        self.torn = false;
        Ok(())
    }

    /// Fills `into` with what [`Channel::write_with`] sent; and the descriptor, if one came along.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn read_with(&mut self, into: &mut [u8]) -> Result<Option<OwnedFd>, ChannelError> {
        let begun = Instant::now();
        let (count, descriptor) = loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(into)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(self.unix()?, &mut parts, &mut control, flags) {
                Ok(message) if message.bytes == 0 => return Err(ChannelError::Closed),
                Ok(message) => {
                    let rights = control.drain().filter_map(|part| match part {
                        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                        _ => None,
                    });
                    break (message.bytes, rights.flatten().next());
                }
                Err(error) => self.bear(error.into(), begun)?,
            }
        };
        self.read(&mut into[count..])?;
        Ok(descriptor)
    }
}
