import { describe, expect } from "vitest";
import {
  KVM_CREATE_DEVICE,
  KVM_CREATE_VM,
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
  KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE,
  KVM_SET_DEVICE_ATTR,
  KvmCreateDevice,
  KvmDeviceAttr,
} from "../../lib/abi/kvm.ts";
import { type Answers, agreement, contract, counter, named } from "./contract.ts";
import { kinds } from "./kinds.ts";

const F_DUPFD = 0;
const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const O_CLOEXEC = 0x80000;
const RLIMIT_NOFILE = 7;

describe("descriptors", () => {
  contract("the lowest free number is always used", (process) => {
    const fds = [1, 2, 3, 4].map(() => process.eventfd2(0, 0));
    expect(fds).toEqual([3, 4, 5, 6]);
    process.close(4);
    process.close(6);
    expect([process.dup(3), process.dup(3), process.dup(3)]).toEqual([4, 6, 7]);
    expect(process.fcntl(3, F_DUPFD, 20)).toBe(20);
    expect(process.fcntl(3, F_DUPFD, 4)).toBe(8);
    expect([named(process.dup(99)), named(process.dup(-1)), named(process.close(99))]).toEqual([
      "EBADF",
      "EBADF",
      "EBADF",
    ]);
  });

  contract("duplicates share the description, not the close-on-exec flag", (process) => {
    const fd = process.eventfd2(0, O_CLOEXEC);
    const copy = process.dup(fd);
    expect([process.fcntl(fd, F_GETFD), process.fcntl(copy, F_GETFD)]).toEqual([1, 0]);
    process.fcntl(copy, F_SETFL, 0x800);
    expect(process.fcntl(fd, F_GETFL)).toBe(0x802);
    process.write(copy, counter(4));
    expect(process.read(fd, new Uint8Array(8))).toBe(8);
  });

  contract("dup3 puts a duplicate where it is wanted", (process) => {
    const [a, b] = [process.eventfd2(1, 0), process.eventfd2(2, 0)];
    expect(process.dup3(a, b, 0)).toBe(b);
    const buffer = new Uint8Array(8);
    process.read(b, buffer);
    expect(buffer[0]).toBe(1);
    expect(process.dup3(a, 50, O_CLOEXEC)).toBe(50);
    expect(process.fcntl(50, F_GETFD)).toBe(1);
    expect(process.dup(a)).toBe(5);
    expect(named(process.dup3(a, a, 0))).toBe("EINVAL");
    expect(named(process.dup3(99, 99, 0))).toBe("EINVAL");
    expect(named(process.dup3(99, 60, 0))).toBe("EBADF");
    expect(named(process.dup3(a, -1, 0))).toBe("EBADF");
    expect(named(process.dup3(a, 1024, 0))).toBe("EBADF");
    expect(named(process.dup3(a, 60, 1))).toBe("EINVAL");
    expect(process.dup(a)).toBe(6);
  });

  agreement("a descriptor behind the attribute of a device", (process) => {
    const vm = process.ioctl(process.open("/dev/kvm", 2), KVM_CREATE_VM, 0);
    const create = KvmCreateDevice.encode({ type: KVM_DEV_TYPE_VFIO });
    process.ioctl(vm, KVM_CREATE_DEVICE, create);
    const device = KvmCreateDevice.at(create).fd;
    const files = { nothing: 0, itself: device, vm, eventfd: process.eventfd2(0, 0), negative: -1, free: 99 };
    process.close(files.nothing);
    const answers: Answers = {};
    for (const [file, fd] of Object.entries(files)) {
      for (const attr of [KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE]) {
        const value = new Uint8Array(Int32Array.of(fd, fd).buffer);
        const addr = BigInt(process.addressOf(value));
        const set = KvmDeviceAttr.encode({ group: KVM_DEV_VFIO_FILE, attr: BigInt(attr), addr });
        answers[`${file}, attribute ${attr}`] = named(process.ioctl(device, KVM_SET_DEVICE_ATTR, set));
        answers[`${file}, attribute ${attr}, afterwards`] = [...new Int32Array(value.buffer)];
      }
    }
    return answers;
  });

  agreement("a table that is full", (process) => {
    const answers: Answers = {};
    const [epoll, fd] = [process.epoll_create1(0), process.eventfd2(0, 0)];
    const kvm = process.open("/dev/kvm", 2);
    const pair: number[] = [-5, -6];
    for (const limit of [6, 7, 8]) {
      process.setrlimit(RLIMIT_NOFILE, limit);
      const ask = (question: string, result: number) => {
        answers[`${question} with a limit of ${limit}`] = named(result);
        if (result > 5) process.close(result);
      };
      ask("eventfd2", process.eventfd2(0, 0));
      ask("eventfd2, wrong flags", process.eventfd2(0, 2));
      ask("epoll_create1", process.epoll_create1(0));
      ask("epoll_create1, wrong flags", process.epoll_create1(1));
      ask("dup", process.dup(fd));
      ask("dup of nothing", process.dup(99));
      ask("dup3 below", process.dup3(fd, 2, 0));
      ask("dup3 at the limit", process.dup3(fd, limit, 0));
      ask("dup3 of nothing at the limit", process.dup3(99, limit, 0));
      ask("F_DUPFD", process.fcntl(fd, F_DUPFD, 0));
      ask("F_DUPFD below", process.fcntl(fd, F_DUPFD, limit - 1));
      ask("F_DUPFD at the limit", process.fcntl(fd, F_DUPFD, limit));
      ask("F_DUPFD of nothing", process.fcntl(99, F_DUPFD, limit));
      ask("F_DUPFD, negative", process.fcntl(fd, F_DUPFD, -1));
      ask("open", process.open("/dev/kvm", 2));
      ask("open of nothing", process.open("/dev/there-is-no-such-file", 2));
      ask("KVM_CREATE_VM", process.ioctl(kvm, 0xae01, 0));
      ask("KVM_CREATE_VM of a wrong type", process.ioctl(kvm, 0xae01, 999));
      ask("epoll_ctl", process.epoll_ctl(epoll, 3, fd, { events: 1, data: 0n }));
      ask("pipe2", process.pipe2(pair, 0));
      ask("pipe2, wrong flags", process.pipe2(pair, 1));
      answers[`the pipe with a limit of ${limit}`] = pair.slice();
      for (const end of pair.splice(0)) process.close(end);
    }
    return answers;
  });

  agreement("fcntl on every kind of file", (process) => {
    const answers: Answers = {};
    for (const [kind, fd] of Object.entries(kinds(process))) {
      const ask = (question: string, result: number) => {
        answers[`${question} on ${kind}`] = [
          named(result),
          named(process.fcntl(fd, F_GETFD)),
          named(process.fcntl(fd, F_GETFL)),
        ];
      };
      ask("F_GETFL", process.fcntl(fd, F_GETFL));
      for (const value of [1, 0, 2, 3, -1, 0]) ask(`F_SETFD ${value}`, process.fcntl(fd, F_SETFD, value));
      for (const value of [0x800, 0x400, 0x2000, 0x4000, 0x8000, 0x40000, 0x1000, 0x80000, 0x200000, 3, 0])
        ask(`F_SETFL 0x${value.toString(16)}`, process.fcntl(fd, F_SETFL, value));
      for (const command of [12, 99, 1024 + 20, -1]) ask(`command ${command}`, process.fcntl(fd, command, 0));
      const copy = process.fcntl(fd, F_DUPFD_CLOEXEC, 0);
      answers[`F_DUPFD_CLOEXEC of ${kind}`] = [named(copy), named(process.fcntl(copy, F_GETFD))];
      if (copy >= 0) process.close(copy);
    }
    return answers;
  });

  agreement("read, write, pread, pwrite on every kind of file", (process) => {
    const answers: Answers = {};
    const files = kinds(process);
    const pair: number[] = [];
    process.pipe2(pair, 0x800);
    files.reading = pair[0];
    files.writing = pair[1];
    files.eventfd = process.eventfd2(1, 0x800);
    for (const [kind, fd] of Object.entries(files)) {
      for (const count of [0, 1, 8, 2 ** 31, -1])
        for (const [where, buffer] of Object.entries({ null: 0, bytes: new Uint8Array(8), kernel: -4096 })) {
          const ask = (question: string, result: number) => {
            answers[`${question} of ${count}, ${where}, on ${kind}`] = named(result);
          };
          ask("write", process.write(fd, buffer, count));
          ask("read", process.read(fd, buffer, count));
          for (const offset of [0, 1, -1, 2 ** 40, 0x7fff_ffff_ffff_ffffn]) {
            ask(`pread at ${offset}`, process.pread(fd, buffer, count, offset));
            ask(`pwrite at ${offset}`, process.pwrite(fd, buffer, count, offset));
          }
        }
    }
    return answers;
  });

  agreement("open with every flag", (process) => {
    const answers: Answers = {};
    const names = [
      "/dev/kvm",
      "/dev//kvm",
      "/dev/./kvm",
      "/dev/../dev/kvm",
      "/dev/kvm/",
      "/dev/kvm/x",
      "",
      "/dev/no",
    ];
    for (const name of names) answers[`open of "${name}"`] = named(process.open(name, 2));
    for (let bit = 0; bit < 23; bit++) {
      const fd = process.open("/dev/kvm", 2 | (1 << bit));
      answers[`flag ${bit}`] = [
        named(fd),
        named(process.fcntl(fd, F_GETFL)),
        named(process.fcntl(fd, F_GETFD)),
      ];
    }
    for (const mode of [0, 1, 2, 3]) {
      const fd = process.open("/dev/kvm", mode);
      answers[`mode ${mode}`] = [
        named(fd),
        named(process.fcntl(fd, F_GETFL)),
        named(process.ioctl(fd, 0xae00)),
      ];
    }
    return answers;
  });
});
