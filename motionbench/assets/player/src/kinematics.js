// Forward kinematics in double precision, the same steps as motionbench.core.kinematics. Quaternions are wxyz.

function rotate(q, o, x, y, z, out) {
  const w = q[o], i = q[o + 1], j = q[o + 2], k = q[o + 3];
  const a = 2 * (j * z - k * y), b = 2 * (k * x - i * z), c = 2 * (i * y - j * x);
  out[0] = x + w * a + j * c - k * b;
  out[1] = y + w * b + k * a - i * c;
  out[2] = z + w * c + i * b - j * a;
}

function multiply(a, o, w, x, y, z, out, p) {
  const aw = a[o], ax = a[o + 1], ay = a[o + 2], az = a[o + 3];
  out[p] = aw * w - ax * x - ay * y - az * z;
  out[p + 1] = aw * x + ax * w + ay * z - az * y;
  out[p + 2] = aw * y - ax * z + ay * w + az * x;
  out[p + 3] = aw * z + ax * y - ay * x + az * w;
}

const v = new Float64Array(3), u = new Float64Array(3), q = new Float64Array(4);

// World poses of all bodies into pos (3B) and quat (4B); state is root position, root quaternion, then the joints.
export function poses(tree, state, pos, quat) {
  const { parents, root, offset_pos, offset_quat, joint_start, joint_slot, joint_hinge, joint_axis, joint_anchor, joint_reference } = tree;
  for (let b = 0; b < parents.length; b++) {
    const p = 3 * b, o = 4 * b, parent = parents[b];
    if (b === root) {
      const n = Math.hypot(state[3], state[4], state[5], state[6]) || 1;
      for (let k = 0; k < 3; k++) pos[p + k] = state[k];
      for (let k = 0; k < 4; k++) quat[o + k] = state[3 + k] / n;
    } else if (parent < 0) {
      for (let k = 0; k < 3; k++) pos[p + k] = offset_pos[p + k];
      for (let k = 0; k < 4; k++) quat[o + k] = offset_quat[o + k];
    } else {
      rotate(quat, 4 * parent, offset_pos[p], offset_pos[p + 1], offset_pos[p + 2], v);
      for (let k = 0; k < 3; k++) pos[p + k] = pos[3 * parent + k] + v[k];
      multiply(quat, 4 * parent, offset_quat[o], offset_quat[o + 1], offset_quat[o + 2], offset_quat[o + 3], quat, o);
    }
    for (let j = joint_start[b]; j < joint_start[b + 1]; j++) {
      const x = state[7 + joint_slot[j]] - joint_reference[j], a = 3 * j;
      if (!joint_hinge[j]) {
        rotate(quat, o, joint_axis[a] * x, joint_axis[a + 1] * x, joint_axis[a + 2] * x, v);
        for (let k = 0; k < 3; k++) pos[p + k] += v[k];
        continue;
      }
      rotate(quat, o, joint_anchor[a], joint_anchor[a + 1], joint_anchor[a + 2], v);
      const s = Math.sin(x / 2);
      multiply(quat, o, Math.cos(x / 2), joint_axis[a] * s, joint_axis[a + 1] * s, joint_axis[a + 2] * s, q, 0);
      for (let k = 0; k < 4; k++) quat[o + k] = q[k];
      rotate(quat, o, joint_anchor[a], joint_anchor[a + 1], joint_anchor[a + 2], u);
      for (let k = 0; k < 3; k++) pos[p + k] += v[k] - u[k];
    }
  }
}

// The clip's state at a fractional frame: straight lines between the frames, the quaternion normalised by poses().
export function stateAt(clip, frame, state) {
  const T = clip.n_frames, D = clip.frames.length / T, x = clip.frames;
  const a = Math.max(0, Math.min(T - 1, Math.floor(frame))), b = Math.min(T - 1, a + 1), f = Math.min(1, Math.max(0, frame - a));
  for (let c = 0; c < D; c++) state[c] = x[c * T + a];
  if (f === 0) return state;
  let dot = 0;
  for (let c = 3; c < 7; c++) dot += x[c * T + a] * x[c * T + b];
  for (let c = 0; c < D; c++) {
    const next = c > 2 && c < 7 && dot < 0 ? -x[c * T + b] : x[c * T + b];
    state[c] += f * (next - state[c]);
  }
  return state;
}

// Share of each joint's limit, 0 to 1 and beyond, at a frame; null where there is no limit.
export const SHARES = {
  limits(model, clip, frame, j) {
    const low = model.joint_range[2 * j], high = model.joint_range[2 * j + 1], q = clip.frames[(7 + j) * clip.n_frames + frame];
    return isFinite(low) && isFinite(high) ? Math.abs(2 * q - low - high) / (high - low) : null;
  },
  velocity(model, clip, frame, j) {
    const limit = model.velocity_limit?.[j], T = clip.n_frames, a = Math.max(0, frame - 1), b = Math.min(T - 1, frame + 1), o = (7 + j) * T;
    return isFinite(limit) && b > a ? Math.abs(clip.frames[o + b] - clip.frames[o + a]) * clip.fps / (b - a) / limit : null;
  },
  torque(model, clip, frame, j) {
    const limit = model.effort_limit?.[j];
    return isFinite(limit) && clip.torque ? Math.abs(clip.torque[j * clip.n_frames + frame]) / limit : null;
  },
};
