/**
 * poll() and epoll (include/uapi/asm-generic/poll.h, linux/eventpoll.h, 7.3): event bits, which are the same for both, and structs.
 * Only x86 packs epoll_event (12 bytes); `EpollEvent` is x86's, `EpollEventAligned` (16 bytes) that of the others.
 */

import { O_CLOEXEC } from "./fcntl.ts";
import { ior, iow } from "./ioctl.ts";
import { fd, s16, struct, u8, u16, u32, u64 } from "./struct.ts";

export const POLLIN = 0x0001;

export const POLLPRI = 0x0002;

export const POLLOUT = 0x0004;

export const POLLERR = 0x0008;

export const POLLHUP = 0x0010;

export const POLLNVAL = 0x0020;

export const POLLRDNORM = 0x0040;

export const POLLRDBAND = 0x0080;

export const POLLWRNORM = 0x0100;

export const POLLWRBAND = 0x0200;

export const POLLMSG = 0x0400;

export const POLLREMOVE = 0x1000;

export const POLLRDHUP = 0x2000;

export const Pollfd = struct({ fd, events: s16, revents: s16 });

export const EPOLL_CLOEXEC = O_CLOEXEC;

export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CTL_MOD = 3;

export const EPOLLIN = 1;

export const EPOLLPRI = 2;

export const EPOLLOUT = 4;

export const EPOLLERR = 8;

export const EPOLLHUP = 0x10;

export const EPOLLNVAL = 0x20;

export const EPOLLRDNORM = 0x40;

export const EPOLLRDBAND = 0x80;

export const EPOLLWRNORM = 0x100;

export const EPOLLWRBAND = 0x200;

export const EPOLLMSG = 0x400;

export const EPOLLRDHUP = 0x2000;

export const EPOLLEXCLUSIVE = 0x10000000;

export const EPOLLWAKEUP = 0x20000000;

export const EPOLLONESHOT = 0x40000000;

export const EPOLLET = 0x80000000;

export const EpollEvent = struct({ events: u32, data: u64 }, { packed: true });

export const EpollParams = struct({
  busy_poll_usecs: u32,
  busy_poll_budget: u16,
  prefer_busy_poll: u8,
  __pad: u8,
});

export const EPOLL_IOC_TYPE = 0x8a;

export const EPIOCSPARAMS = iow(EPOLL_IOC_TYPE, 0x01, EpollParams, { on: "epoll" });
export const EPIOCGPARAMS = ior(EPOLL_IOC_TYPE, 0x02, EpollParams, { on: "epoll" });

/** struct epoll_event where it is not packed. */
export const EpollEventAligned = struct({ events: u32, data: u64 });
