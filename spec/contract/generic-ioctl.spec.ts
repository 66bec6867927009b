import { type Answers, agreement, named } from "./contract.ts";
import { kinds } from "./kinds.ts";

// FICLONE and the like take a plain descriptor number, which would be the host's own.
// include/uapi/asm-generic/ioctls.h and include/uapi/linux/fs.h
const requests: Record<string, number> = {
  FIONCLEX: 0x5450,
  FIOCLEX: 0x5451,
  FIONBIO: 0x5421,
  FIOASYNC: 0x5452,
  FIOQSIZE: 0x5460,
  FIONREAD: 0x541b,
  FIBMAP: 1,
  FIGETBSZ: 2,
  FIFREEZE: 0xc0045877,
  FITHAW: 0xc0045878,
  FS_IOC_FIEMAP: 0xc020660b,
  FIDEDUPERANGE: 0xc0189436,
  FS_IOC_RESVSP: 0x40305828,
  FS_IOC_RESVSP64: 0x4030582a,
  FS_IOC_UNRESVSP: 0x40305829,
  FS_IOC_UNRESVSP64: 0x4030582b,
  FS_IOC_ZERO_RANGE: 0x40305839,
  FS_IOC_GETFLAGS: 0x80086601,
  FS_IOC_SETFLAGS: 0x40086602,
  FS_IOC_FSGETXATTR: 0x801c581f,
  FS_IOC_FSSETXATTR: 0x401c5820,
  TCGETS: 0x5401,
  TIOCGWINSZ: 0x5413,
  BLKGETSIZE: 0x1260,
  EPIOCSPARAMS: 0x40088a01,
  EPIOCGPARAMS: 0x80088a02,
};

const F_GETFD = 1;
const F_GETFL = 3;

const bytesOf = (buffer: Uint8Array): string => Array.from(buffer).join(" ");

agreement("the requests that every file answers", (process) => {
  const answers: Answers = {};
  for (const [kind, fd] of Object.entries(kinds(process)))
    for (const [name, request] of Object.entries(requests))
      for (const [what, argument] of [
        ["null", 0],
        ["short", new Uint8Array(3)],
        ["zero", new Uint8Array(256)],
        ["one", new Uint8Array(256).fill(1, 0, 1)],
        ["a count of one", new Uint8Array(256).fill(1, 16, 17)],
        ["a large count", new Uint8Array(256).fill(2, 16, 18)],
        ["high bytes", new Uint8Array(256).fill(0xff, 4, 8)],
        ["zero again", new Uint8Array(256)],
      ] as const) {
        const result = named(process.ioctl(fd, request, argument));
        answers[`${name} on ${kind}, ${what}`] = [
          result,
          typeof argument === "number" ? "" : bytesOf(argument.subarray(0, 8)),
          named(process.fcntl(fd, F_GETFD)),
          named(process.fcntl(fd, F_GETFL)),
        ];
      }
  return answers;
});
