// What stands on the ground: robots, a human skeleton, contact marks.
import {
  BufferAttribute, BufferGeometry, CircleGeometry, Color, CylinderGeometry, Group, InstancedMesh, Matrix4, Mesh, MeshBasicMaterial,
  MeshLambertMaterial, MeshStandardMaterial, Quaternion, ShaderMaterial, SphereGeometry, SRGBColorSpace, Vector3,
} from "three";
import { poses } from "./kinematics.js";

const srgb = (r, g, b) => new Color().setRGB(r, g, b, SRGBColorSpace);
const RAMP = [[0, srgb(0.66, 0.71, 0.76)], [0.5, srgb(0.66, 0.71, 0.76)], [0.8, srgb(0.93, 0.68, 0.16)], [1, srgb(0.78, 0.12, 0.20)]];
const NO_LIMIT = srgb(0.42, 0.44, 0.47);

export function ramp(share, out) {
  if (share === null) return out.copy(NO_LIMIT);
  const i = RAMP.findIndex(([at]) => at >= share);
  if (i < 0) return out.copy(RAMP.at(-1)[1]);
  if (i === 0) return out.copy(RAMP[0][1]);
  const [a, from] = RAMP[i - 1], [b, to] = RAMP[i];
  return out.copy(from).lerp(to, (share - a) / (b - a));
}

// Vertex normals that stay sharp at edges of more than 40 degrees; corners with the same normal are one.
function creased(xyz, faces) {
  const F = faces.length / 3, normal = new Float32Array(faces.length), area = new Float32Array(faces.length), count = new Uint32Array(xyz.length / 3 + 1);
  for (let f = 0; f < F; f++) {
    const [a, b, c] = [3 * faces[3 * f], 3 * faces[3 * f + 1], 3 * faces[3 * f + 2]];
    const ux = xyz[b] - xyz[a], uy = xyz[b + 1] - xyz[a + 1], uz = xyz[b + 2] - xyz[a + 2];
    const vx = xyz[c] - xyz[a], vy = xyz[c + 1] - xyz[a + 1], vz = xyz[c + 2] - xyz[a + 2];
    const n = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], l = Math.hypot(...n) || 1;
    for (let k = 0; k < 3; k++) { area[3 * f + k] = n[k]; normal[3 * f + k] = n[k] / l; count[faces[3 * f + k] + 1]++; }
  }
  for (let i = 1; i < count.length; i++) count[i] += count[i - 1];
  const of = new Uint32Array(faces.length), fill = count.slice();
  for (let i = 0; i < faces.length; i++) of[fill[faces[i]]++] = Math.floor(i / 3);
  const position = [], normals = [], index = new Uint32Array(faces.length), made = new Map();
  for (let i = 0; i < faces.length; i++) {
    const v = faces[i], f = Math.floor(i / 3);
    let x = 0, y = 0, z = 0;
    for (let n = count[v]; n < count[v + 1]; n++) {
      const g = of[n], dot = normal[3 * f] * normal[3 * g] + normal[3 * f + 1] * normal[3 * g + 1] + normal[3 * f + 2] * normal[3 * g + 2];
      if (dot > 0.766) { x += area[3 * g]; y += area[3 * g + 1]; z += area[3 * g + 2]; }
    }
    const l = 100 / (Math.hypot(x, y, z) || 1), key = (v * 256 + Math.round(x * l)) * 65536 + (Math.round(y * l) + 128) * 256 + Math.round(z * l) + 128;
    let at = made.get(key);
    if (at === undefined) {
      made.set(key, at = position.length / 3);
      position.push(xyz[3 * v], xyz[3 * v + 1], xyz[3 * v + 2]);
      normals.push(x * l / 100, y * l / 100, z * l / 100);
    }
    index[i] = at;
  }
  const geometry = new BufferGeometry();
  geometry.setAttribute("position", new BufferAttribute(new Float32Array(position), 3));
  geometry.setAttribute("normal", new BufferAttribute(new Float32Array(normals), 3));
  geometry.setIndex(new BufferAttribute(position.length < 3 * 65536 ? new Uint16Array(index) : index, 1));
  return geometry;
}

// Geometries of a model, made once and shared by a robot and its ghost.
function geometries(model) {
  model.geometries ??= model.parts.map(part => {
    const xyz = Float32Array.from(part.vertices, (x, i) => part.centre[i % 3] + x * part.scale);
    return creased(xyz, part.faces);
  });
  return model.geometries;
}

export class Robot extends Group {
  constructor(model, ghost = false) {
    super();
    this.model = model;
    const B = model.tree.parents.length;
    this.pos = new Float64Array(3 * B);
    this.quat = new Float64Array(4 * B);
    this.bodies = Array.from({ length: B }, () => { const g = new Group(); g.matrixAutoUpdate = false; this.add(g); return g; });
    this.skins = model.parts.map((part, i) => {
      const own = srgb(...part.rgba.slice(0, 3)), alpha = ghost ? 0.3 : part.rgba[3];
      const material = new MeshLambertMaterial({ color: ghost ? srgb(0.20, 0.50, 0.78) : own, transparent: alpha < 1, opacity: alpha, polygonOffset: ghost, polygonOffsetFactor: 1, polygonOffsetUnits: 4 });
      const mesh = new Mesh(geometries(model)[i], material);
      mesh.castShadow = !ghost;
      mesh.receiveShadow = false;
      mesh.renderOrder = ghost ? 2 : 0;
      mesh.frustumCulled = false;
      this.bodies[part.body].add(mesh);
      return { material, own, body: part.body };
    });
  }

  pose(state) {
    const p = new Vector3(), q = new Quaternion(), one = new Vector3(1, 1, 1);
    poses(this.model.tree, state, this.pos, this.quat);
    this.bodies.forEach((g, b) => {
      p.fromArray(this.pos, 3 * b);
      q.set(this.quat[4 * b + 1], this.quat[4 * b + 2], this.quat[4 * b + 3], this.quat[4 * b]);
      g.matrix.compose(p, q, one);
      g.matrixWorldNeedsUpdate = true;
    });
  }

  // Links in the colour of their joints' largest share, or in their own.
  paint(share) {
    const { joint_start, joint_slot } = this.model.tree;
    const of = share && this.bodies.map((_, b) => {
      let most = null;
      for (let j = joint_start[b]; j < joint_start[b + 1]; j++) {
        const s = share(joint_slot[j]);
        if (s !== null) most = Math.max(most ?? 0, s);
      }
      return most;
    });
    for (const { material, own, body } of this.skins) of ? ramp(of[body], material.color) : material.color.copy(own);
  }

  dispose() { for (const { material } of this.skins) material.dispose(); }
}

export class Human extends Group {
  constructor(human, frames) {
    super();
    this.human = human;
    this.frames = frames;
    this.K = human.parents.length;
    const material = new MeshStandardMaterial({ color: srgb(0.55, 0.36, 0.78), roughness: 0.6, transparent: true, opacity: 0.9 });
    this.balls = new InstancedMesh(new SphereGeometry(0.022, 12, 8), material, this.K);
    this.bones = new InstancedMesh(new CylinderGeometry(0.009, 0.009, 1, 8).rotateX(Math.PI / 2), material, this.K);
    for (const m of [this.balls, this.bones]) { m.frustumCulled = false; m.renderOrder = 1; this.add(m); }
  }

  at(frame, k, out) {
    for (let c = 0; c < 3; c++) out.setComponent(c, this.human.centre[c] + this.human.scale * this.human.positions[(3 * k + c) * this.frames + frame]);
    return out;
  }

  pose(frame) {
    const a = new Vector3(), b = new Vector3(), d = new Vector3(), q = new Quaternion(), m = new Matrix4(), one = new Vector3(1, 1, 1), z = new Vector3(0, 0, 1);
    for (let k = 0; k < this.K; k++) {
      this.at(frame, k, a);
      this.balls.setMatrixAt(k, m.makeTranslation(a));
      const parent = this.human.parents[k];
      if (parent < 0) { this.bones.setMatrixAt(k, m.makeScale(0, 0, 0)); continue; }
      this.at(frame, parent, b);
      const length = d.subVectors(a, b).length();
      q.setFromUnitVectors(z, length > 1e-9 ? d.divideScalar(length) : z);
      this.bones.setMatrixAt(k, m.compose(a.add(b).multiplyScalar(0.5), q, one.set(1, 1, length)));
    }
    this.balls.instanceMatrix.needsUpdate = this.bones.instanceMatrix.needsUpdate = true;
  }
}

const GLOW = {
  vertexShader: "varying vec2 p; void main() { p = 2.0 * uv - 1.0; gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0); }",
  fragmentShader: `varying vec2 p; uniform vec3 color; uniform float on;
    void main() { float r = length(p); float core = 1.0 - smoothstep(0.30, 0.38, r); float halo = 0.55 * pow(max(0.0, 1.0 - r), 1.6);
      gl_FragColor = vec4(color, max(core, halo) * on);
      #include <colorspace_fragment>
    }`,
};

// A glowing disc at every point of a sole whose contact is on.
export class Marks extends Group {
  constructor(contacts, frames) {
    super();
    this.frames = frames;
    this.marks = contacts.points.map(({ column, body, point, side }) => {
      const color = side === "right" ? new Color(0xe8762c) : new Color(0x12a0a8);
      const material = new ShaderMaterial({ ...GLOW, uniforms: { color: { value: color }, on: { value: 0 } }, transparent: true, depthWrite: false });
      const mesh = new Mesh(new CircleGeometry(0.075, 24), material);
      mesh.renderOrder = 1;
      this.add(mesh);
      return { mesh, column, body, point: new Vector3(...point) };
    });
    this.on = contacts.on;
  }

  pose(robot, frame) {
    for (const { mesh, column, body, point } of this.marks) {
      const on = this.on[column * this.frames + frame];
      mesh.visible = !!on;
      mesh.material.uniforms.on.value = on;
      mesh.position.copy(point).applyMatrix4(robot.bodies[body].matrix);
      mesh.position.z = Math.max(mesh.position.z, 0) + 0.004;
    }
  }
}
