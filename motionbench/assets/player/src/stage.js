// The studio: light, ground, camera. z is up.
import {
  AmbientLight, Color, DirectionalLight, HemisphereLight, Mesh, PCFShadowMap, PerspectiveCamera, PlaneGeometry, Scene, ShaderMaterial, ShadowMaterial, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";

const GRID = {
  vertexShader: "varying vec3 w; void main() { vec4 p = modelMatrix * vec4(position, 1.0); w = p.xyz; gl_Position = projectionMatrix * viewMatrix * p; }",
  fragmentShader: `varying vec3 w; uniform vec3 color; uniform vec2 centre; uniform float strength; uniform float reach;
    float lines(float pitch, float width) {
      vec2 g = w.xy / pitch, d = max(fwidth(g), vec2(1e-6)), a = abs(fract(g - 0.5) - 0.5) / d;
      vec2 l = (1.0 - smoothstep(width * 0.5, width * 0.5 + 1.0, a)) * clamp(0.6 / d - 0.6, 0.0, 1.0);
      return max(l.x, l.y);
    }
    void main() {
      float fade = 1.0 - smoothstep(0.15, 1.0, length(w.xy - centre) / reach);
      float a = max(lines(1.0, 1.0), 0.32 * lines(0.25, 0.5)) * fade * fade * strength;
      if (a < 0.003) discard;
      gl_FragColor = vec4(color, a);
      #include <colorspace_fragment>
    }`,
};

export class Stage {
  constructor(canvas, software) {
    this.renderer = new WebGLRenderer({ canvas, antialias: !software, alpha: true, powerPreference: "low-power" });
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = PCFShadowMap;
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(30, 1, 0.05, 200);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, canvas);
    Object.assign(this.controls, { enableDamping: false, maxPolarAngle: 0.495 * Math.PI, minDistance: 0.3, maxDistance: 60, zoomSpeed: 0.8 });
    this.quality = software ? 0.7 : 1;
    this.software = software;
    this.target = new Vector3();
    this.#light(software ? 512 : 2048);
    this.#ground();
  }

  #light(shadow) {
    this.sky = new HemisphereLight(0xffffff, 0xc4bdb4, 1.9);
    this.sky.position.set(0, 0, 1);
    this.fill = new AmbientLight(0xffffff, 0.25);
    this.key = new DirectionalLight(0xfffaf2, 2.5);
    this.rim = new DirectionalLight(0xdfeaff, 0.9);
    this.key.castShadow = true;
    this.key.shadow.mapSize.set(shadow, shadow);
    Object.assign(this.key.shadow, { radius: 5, bias: -0.0005, intensity: 1 });
    this.scene.add(this.sky, this.fill, this.key, this.key.target, this.rim, this.rim.target);
  }

  #ground() {
    this.grid = new Mesh(new PlaneGeometry(1, 1), new ShaderMaterial({ ...GRID, transparent: true, depthWrite: false,
      uniforms: { color: { value: new Color() }, centre: { value: this.target }, strength: { value: 0.5 }, reach: { value: 6 } } }));
    this.floor = new Mesh(new PlaneGeometry(1, 1), new ShadowMaterial({ opacity: 0.2, transparent: true, depthWrite: false }));
    this.floor.receiveShadow = true;
    this.grid.renderOrder = -2;
    this.floor.renderOrder = -1;
    this.scene.add(this.grid, this.floor);
  }

  theme(dark) {
    this.grid.material.uniforms.color.value.set(dark ? 0xaab4c2 : 0x39424e);
    this.grid.material.uniforms.strength.value = dark ? 0.26 : 0.24;
    this.floor.material.opacity = dark ? 0.42 : 0.2;
    this.sky.intensity = dark ? 1.9 : 1.9;
    this.fill.intensity = dark ? 0.6 : 0.25;
    this.rim.intensity = dark ? 2.2 : 0.8;
  }

  // The size of what is shown decides distances, the reach of the ground and the shadow's frame.
  frame(centre, size, heading, aspect) {
    this.size = size;
    this.target.copy(centre);
    const half = Math.tan(this.camera.fov * Math.PI / 360), distance = 0.62 * size / half / Math.min(1, aspect * 1.15);
    const azimuth = heading + 0.62, elevation = 0.21;
    this.camera.position.set(Math.cos(azimuth) * Math.cos(elevation), Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation)).multiplyScalar(distance).add(centre);
    this.controls.target.copy(centre);
    this.grid.material.uniforms.reach.value = 4.5 * size;
    this.grid.scale.setScalar(9 * size);
    this.floor.scale.setScalar(3.2 * size);
    const c = this.key.shadow.camera, r = 1.25 * size;
    Object.assign(c, { left: -r, right: r, top: r, bottom: -r, near: 0.1, far: 8 * size });
    c.updateProjectionMatrix();
    this.moveTo(centre);
    this.controls.update();
  }

  // Lights and ground go with the robot; the camera too when it follows.
  moveTo(centre, follow = false) {
    if (follow) {
      const dx = centre.x - this.target.x, dy = centre.y - this.target.y;
      for (const v of [this.camera.position, this.controls.target]) { v.x += dx; v.y += dy; }
      this.camera.updateMatrixWorld();
      this.camera.lookAt(this.controls.target);
    }
    this.target.x = centre.x;
    this.target.y = centre.y;
    this.grid.position.set(centre.x, centre.y, 0);
    this.floor.position.set(centre.x, centre.y, 0.001);
    const s = this.size;
    for (const [light, x, y, z] of [[this.key, 1.1, 1.5, 3.2], [this.rim, -2, -1.6, 1.4]]) {
      light.target.position.set(centre.x, centre.y, 0.4 * s);
      light.position.set(centre.x + x * s, centre.y + y * s, z * s);
    }
  }

  resize(width, height) {
    this.renderer.setPixelRatio(Math.min(devicePixelRatio || 1, 2) * this.quality);
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
  }

  render() {
    const map = this.renderer.shadowMap;
    map.autoUpdate = !this.software || (this.count = (this.count ?? 0) + 1) % 2 === 0 || this.count < 4;     // every second shadow is enough there
    this.renderer.render(this.scene, this.camera);
  }

  dispose() {
    this.controls.dispose();
    this.scene.traverse(o => { if (o.geometry) o.geometry.dispose(); });
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}
